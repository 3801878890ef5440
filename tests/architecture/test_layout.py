"""The structure that the documentation promises."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gzsurvey import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gzsurvey"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listing.stdout.splitlines()]


def test_top_level_is_what_the_readme_says() -> None:
    allowed = {
        "pyproject.toml", "gzsurvey", "pipelines", "catalogs", "tests", "docs", "README.md", "Makefile", "LICENSE",
        "constraints.txt", ".ci", ".gitignore", ".pre-commit-config.yaml", ".gitattributes",
    }  # fmt: skip
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= allowed


def test_imports_point_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_survey_s_processes_start_without_what_takes_seconds_to_import() -> None:
    heavy = ["torch", "astropy.units", "scipy.special", "scipy.spatial", "pandas", "distributed", "onnxruntime"]
    code = f"import sys, gzsurvey.survey.run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_undone_or_swallowed(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|NotImplementedError", text)
    assert not re.search(r"except\s*:|shell=True|pickle\.load|yaml\.load\(|(?<![.\w])eval\(", text)
    if path.relative_to(PACKAGE).as_posix() not in {"survey/worker.py", "cli/command.py"}:
        assert "except Exception" not in text


def test_no_file_names_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(work|root|tmp/bash_jobs)/")
    for path in tracked():
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ""} and path.is_file():
            found = pattern.search(path.read_text(errors="ignore"))
            assert path == Path(__file__) or not found, f"{path}: {found and found.group()}"


def test_help_needs_no_torch() -> None:
    code = "import gzsurvey.cli, sys; assert not {'torch', 'dask', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def error_classes() -> list[type[errors.GZSurveyError]]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.GZSurveyError)]


@pytest.mark.parametrize("cls", error_classes(), ids=lambda cls: cls.__name__)
def test_errors_cross_process_boundaries(cls: type[errors.GZSurveyError]) -> None:
    arguments = {"rows": (1, 2), "differences": ["a"], "failed": 1, "total": 2, "status": 20}
    takes = next(base for base in cls.__mro__ if "__init__" in vars(base))
    names = list(inspect.signature(takes).parameters) if issubclass(takes, errors.GZSurveyError) else ["problem"]
    error = cls(*(arguments.get(name, "text") for name in names))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert "\n" not in str(error)


def test_the_tree_in_the_docstring_is_complete() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {cls.__name__ for cls in error_classes()} - {"GZSurveyError"}


def test_every_module_imports() -> None:
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(parts).removesuffix(".__init__"))
