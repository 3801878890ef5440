"""The how-to's script, run as it stands there, gives the numbers of a catalogue."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gzsurvey.catalogue import read_catalogue
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.recipes.survey import load_survey_recipe
from gzsurvey.survey import Job, classify

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-onnx-file.md"
GALAXIES = 9


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (block,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    assert "gzsurvey" not in block.replace("gzsurvey.card", "")
    assert "torch" not in block
    assert len(block[block.index("session") :].splitlines()) == 10
    path: Path = tmp_path_factory.mktemp("script") / "fractions.py"
    path.write_text(block)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(11)
    for number in range(GALAXIES):
        height, width = (120, 150) if number % 2 else (200, 200)
        y, x = np.mgrid[:height, :width] - np.array([height, width]).reshape(2, 1, 1) / 2
        light = 220 * np.exp(-np.hypot(x, y * rng.uniform(1, 3)) / rng.uniform(8, 30))
        pixels = light[..., np.newaxis] * rng.uniform(0.4, 1, 3) + rng.normal(12, 4, (height, width, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return folder


def fractions(script: Path, model: Path, picture: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, script, model, picture], capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def test_a_catalogue_row_out_of_a_jpeg(script: Path, exported: Path, pictures: Path, tmp_path: Path) -> None:
    targets = tmp_path / "targets.csv"
    rows = [f"{number},{150 + number / 10},2.0" for number in range(GALAXIES)]
    targets.write_text("\n".join(["id,ra,dec", *rows]) + "\n")
    recipe = load_survey_recipe("survey", ["preview_targets=4"])
    job = Job(exported, str(targets), (SourceSpec.parse(f"images:{pictures}"),), recipe)
    classify(job, tmp_path / "run", load_cluster("none"))
    catalogue = read_catalogue(tmp_path / "run")
    assert list(catalogue["status"]) == [0] * GALAXIES
    for row in (0, GALAXIES - 1):
        expected = fractions(script, exported, pictures / f"{catalogue['id'][row]}.jpg")
        assert len(expected) == 30
        for name, value in expected.items():
            column = name.replace("-gz2_", "_").replace("-", "_")
            assert catalogue[column][row] == pytest.approx(value, abs=2e-7), name
