"""Labels that cannot be used, as a user meets them: one line, exit code 1, and nothing half made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pictures import pictures
from PIL import Image

from gzsurvey.cli import cli

N = 12


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stamps")
    for number, image in enumerate(pictures(N, 1)[0]):
        Image.fromarray(image).save(folder / f"g{number}.png")
    return folder


def said(command: list[str], labels: pd.DataFrame, stamps: Path, folder: Path) -> str:
    """Run a command on a table of labels, and return its one line on standard error."""
    table = folder / "labels.csv"
    labels.to_csv(table, index=False)
    done = CliRunner().invoke(cli, [*command, "--labels", str(table), "--images", str(stamps), "--quiet"])
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("gzsurvey: ")
    assert str(table) in line
    return line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"id": [f"x{i}" for i in range(N)]}, ["no label has an image", "x0, x1, x2, x3, x4 and 7 more"]),
        ({"label": ["ring"] * N}, ["all 12 labels are 'ring'", "at least two classes"]),
        ({"label": ["ring", "none"] * 5 + ["ring", None]}, ["'task' is empty or NaN", "row 11"]),
        ({"label": ["arc"] + ["ring", "none"] * 5 + ["ring"]}, ["class 'arc' has one example", "row 0"]),
        ({"id": ["g0", "g0", *(f"g{i}" for i in range(2, N))]}, ["'g0' stands more than once", "row 0, 1"]),
    ],
)
def test_classes(changes: dict[str, list[object]], named: list[str], stamps: Path, tmp_path: Path) -> None:
    good = pd.DataFrame({"id": [f"g{i}" for i in range(N)], "label": ["ring", "none"] * (N // 2)})
    out = tmp_path / "out"
    encoder = ["--set", "encoder.name=test_resnet", "--set", "image_size=32", "--device", "cpu"]
    line = said(["finetune", "finetune", "none", str(out), *encoder], good.assign(**changes), stamps, tmp_path)
    assert all(words in line for words in named), line
    assert not list(out.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("column", "named"),
    [
        ("shells-gz2_yes", ["'shells-gz2_yes'", "a question that 'gz2' lacks", "smooth-or-featured-gz2"]),
        ("disk-edge-on-gz2_perhaps", ["'disk-edge-on-gz2_perhaps'", "an answer that 'gz2' lacks", "yes, no"]),
    ],
)
def test_votes_on_what_the_tree_lacks(column: str, named: list[str], stamps: Path, tmp_path: Path) -> None:
    first = {f"smooth-or-featured-gz2_{a}": np.full(N, 5) for a in ("smooth", "featured-or-disk", "artifact")}
    table = pd.DataFrame({"id": [f"g{i}" for i in range(N)]} | first | {column: 3})
    votes = ["--set", "kind=votes", "--set", "campaign=gz2", "--device", "cpu"]
    line = said(["finetune", "finetune", "none", str(tmp_path / "out"), *votes], table, stamps, tmp_path)
    assert all(words in line for words in named), line
