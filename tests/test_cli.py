"""The command line: help, one line per mistake, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from gzsurvey.cli import cli


def gzsurvey(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gzsurvey", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def commands(group: click.Group = cli, before: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_has_an_example_and_the_common_options(name: str) -> None:
    command = commands()[name]
    assert command.help is not None
    assert f"Example: gzsurvey {name}" in command.help
    assert {"--quiet", "--debug", "--help"} <= {
        option for parameter in command.get_params(click.Context(command)) for option in parameter.opts
    }


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_misspelt_key_gets_one_line_with_the_right_one(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("approach: hybrid\nbatch_sise: 32\n")
    line = one_line(gzsurvey("pretrain", recipe, tmp_path / "out", "--dataset", tmp_path), 1)
    assert "batch_sise" in line
    assert "batch_size" in line
    assert str(recipe) in line


def test_an_unknown_recipe_lists_those_that_exist(tmp_path: Path) -> None:
    line = one_line(gzsurvey("simulate", tmp_path / "sky", "--recipe", "simulation"), 1)
    assert "simulate" in line


def test_an_unknown_source_lists_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    line = one_line(
        gzsurvey("plan", "--model", tmp_path / "model.onnx", "--targets", "t.fits", "--cutouts", "mosiac:x",
                 "--out", tmp_path / "run"), 1,
    )  # fmt: skip
    assert "mosaic" in line


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = gzsurvey("simulate", tmp_path / "sky", "--recipe", "nothing", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_usage_errors_exit_2(tmp_path: Path) -> None:
    assert gzsurvey("pretrain").returncode == 2
    assert gzsurvey("classify", "--cluster").returncode == 2


def test_a_missing_file_gets_one_line(tmp_path: Path) -> None:
    line = one_line(gzsurvey("status", tmp_path / "nowhere"), 1)
    assert "nowhere" in line
