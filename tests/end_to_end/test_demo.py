"""The whole chain, shortened: the same bytes from the same seed, wherever it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
import zarr
from astropy.table import Table

from gzsurvey import read_catalogue, resources
from gzsurvey.survey import checks
from gzsurvey.votes import DecisionTree, expected_fractions

pytestmark = pytest.mark.slow


def run(recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gzsurvey", "demo", str(out), "--recipe", str(recipe), *more]
    return subprocess.run(command, capture_output=True, text=True)


def short_recipe(path: Path, least_auc: float) -> Path:
    recipe = yaml.safe_load(resources.find(resources.RECIPES, "demo").read_text())
    recipe["sky"] = {"targets": 80, "training": 300}
    recipe["pretrain"] |= {"epochs": 2}
    recipe["checks"] = {"featured_auc": least_auc, "embedding_spread": 0.0}
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demos of one seed, whose check nothing can reach."""
    folder = tmp_path_factory.mktemp("demo")
    recipe = short_recipe(folder / "short.yaml", 1.0)
    for name in ("one", "some/where/else"):
        done = run(recipe, folder / name)
        assert done.returncode == 1, done.stderr[-3000:]
        assert done.stderr.strip().splitlines()[-1].startswith("gzsurvey: featured ROC-AUC")
        assert "Traceback" not in done.stderr
    return folder


def test_it_leaves_what_it_promises_even_when_a_check_fails(folder: Path) -> None:
    for name in ("simulated", "store", "pretrained", "finetuned", "model.onnx", "report.html"):
        assert (folder / "one" / name).exists()
    for name in ("catalogue.fits", "catalogue_full.fits", "predictions.zarr", "missing.ecsv", "provenance.json"):
        assert (folder / "one" / "run" / name).exists()


@pytest.mark.parametrize("name", ["catalogue.fits", "catalogue_full.fits"])
def test_one_seed_gives_equal_catalogues_wherever(folder: Path, name: str) -> None:
    one, other = (Table.read(folder / place / "run" / name) for place in ("one", "some/where/else"))
    assert one.colnames == other.colnames
    assert len(one) == len(other) == 80
    for column in one.colnames:
        a, b = (np.ma.filled(np.ma.asarray(table[column])) for table in (one, other))
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), column


def test_one_seed_gives_equal_arrays(folder: Path) -> None:
    one, other = (zarr.open_group(folder / at / "run/predictions.zarr", mode="r") for at in ("one", "some/where/else"))
    for name in ("embedding", "concentration", "ring_probability", "status"):
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


def test_plain_onnxruntime_gives_the_catalogue_s_numbers(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "one" / "model.onnx", providers=["CPUExecutionProvider"])
    table = read_catalogue(folder / "one" / "run")
    tree = DecisionTree.load("gz_evo_v0_1")
    column = tree.vote_columns.index("smooth-or-featured-dr8_featured-or-disk")
    seen = 0
    for block in checks.read(folder / "one" / "run"):
        images = np.ascontiguousarray(block["image"].transpose(0, 3, 1, 2))
        (concentration,) = session.run(["concentration"], {"image": images})
        fractions = expected_fractions(concentration, tree)[:, column]
        rows = table[block["row"]]
        assert list(rows["id"]) == list(block["id"])
        stated = np.asarray(rows["smooth_or_featured_featured_or_disk_fraction"])
        np.testing.assert_allclose(fractions, stated, rtol=1e-5)
        seen += len(rows)
    assert seen > 50


def client(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
    return str(found)


@pytest.mark.parametrize("name", ["catalogue.fits", "catalogue_full.fits"])
def test_real_clients_find_nothing_to_complain_about(folder: Path, name: str) -> None:
    path = str(folder / "one" / "run" / name)
    done = subprocess.run([client("fitsverify"), path], capture_output=True, text=True)
    assert "0 warning(s) and 0 error(s)" in done.stdout
    done = subprocess.run([client("stilts"), "tpipe", f"in={path}", "cmd=meta"], capture_output=True, text=True)
    assert done.returncode == 0
    for text in ("pos.eq.ra;meta.main", "arcsec", "stat.probability;src.morph.type", "Right ascension, ICRS"):
        assert text in done.stdout


def test_another_seed_is_another_sky(folder: Path) -> None:
    done = run(folder / "short.yaml", folder / "one", "--seed", "2")
    assert done.returncode == 1
    assert "made from other inputs" in done.stderr
