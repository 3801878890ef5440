"""What the pages about catalogues say is what happens."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from outputs.catalogues import client
from outputs.runs import make_run

from gzsurvey.cli import cli
from gzsurvey.outputs.reference import columns_page
from gzsurvey.survey.publish import publish

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    make_run(folder / "run", n=300)
    publish(folder / "run")
    return folder


def test_the_reference_of_columns_is_current() -> None:
    assert (DOCS / "reference" / "columns.md").read_text() == columns_page(), (
        "run: python -m gzsurvey.outputs.reference > docs/reference/columns.md"
    )


def test_astropy_page_runs(folder: Path) -> None:
    code = "\n".join(blocks("how-to/astropy.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "smooth.png").is_file()
    assert "deg | What happened" in done.stdout


def test_query_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = "\n".join(blocks("how-to/query.md", "bash")).replace("\\\n", " ").split("\n")
    commands = [command for command in commands if command]
    assert len(commands) == 7
    for command in commands:
        done = CliRunner().invoke(cli, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
    assert "matches; -o FILE" in done.output
    exec("\n".join(blocks("how-to/query.md", "python")), {})
    assert (folder / "smooth.parquet").is_file()


@pytest.mark.parametrize("number", range(len(blocks("how-to/topcat.md", "bash"))))
def test_topcat_page_runs(folder: Path, number: int) -> None:
    client("stilts")
    commands = blocks("how-to/topcat.md", "bash")[number]
    done = subprocess.run(["bash", "-euc", commands], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{commands}\n{done.stderr}"
