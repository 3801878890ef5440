"""A run whose pixels come from services, through the same blocks, ledger and plan."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import RunIncomplete, SourceError
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.recipes.cluster import ClusterProfile, load_cluster
from gzsurvey.status import Status
from gzsurvey.survey import Job, plan, run
from survey import tiny

sys.path.append(str(Path(__file__).parents[1] / "cutouts"))
from loopback import Services, Sky, serving
from skies import SCALE, SIDE, position, simulated_sky

HERE = load_cluster("none")
FAST = (
    "politeness.requests_per_s=2000", "politeness.tries=3", "politeness.backoff_s=0.01", "politeness.timeout_s=5",
    "politeness.cache_mb=0",
)  # fmt: skip


@pytest.fixture
def services() -> Iterator[Services]:
    with serving(Services(simulated_sky())) as running:
        yield running


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def job(services: Services, folder: Path, rows: int, bands: str = "grz", **changes: float) -> Job:
    rng = np.random.default_rng(1)
    places = [position(*rng.uniform(80, SIDE - 80, 2)) for _ in range(rows)]
    lines = [f"{number},{ra:.7f},{dec:.7f},2.0" for number, (ra, dec) in enumerate(places)]
    (folder / "targets.csv").write_text("\n".join(["id,ra,dec,r50", *lines]))
    model = tiny.write_model(folder / "model.onnx")
    text = f"hips2fits:SIM/P/sky/{{band}}@{services.url}/hips2fits"
    spec = SourceSpec(text, tuple(bands), zeropoints=(22.5, 22.5, 22.5), pixel_scale_arcsec=SCALE)
    recipe = tiny.load_survey_recipe("survey", ["preview_targets=4", "check_rows=4", "block_rows=256", *FAST,
                                                *(f"{key}={value}" for key, value in changes.items())])  # fmt: skip
    return Job(model, str(folder / "targets.csv"), (spec,), recipe)


def test_a_run_asks_what_the_plan_said(services: Services, tmp_path: Path) -> None:
    planned = str(plan(job(services, tmp_path, 20), tmp_path / "run", HERE))
    host = services.url.removeprefix("http://")
    assert f"60 requests of {host} for about 0.5 MB, at most 2000 a second" in planned
    services.log.clear()
    run(tmp_path / "run", HERE)
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, 20)
    assert (rows["status"] == Status.PREDICTED).all()
    assert set(rows["image_set"]) == {"hips2fits:SIM/P/sky/{band}"}
    assert len(services.log) == 60


@pytest.mark.slow
def test_a_service_that_is_down_or_refuses_leaves_no_misses(services: Services, tmp_path: Path) -> None:
    plan(job(services, tmp_path, 30), tmp_path / "run", HERE)
    services.fault = lambda number, path, query: "500"
    with pytest.raises(RunIncomplete, match="did not give 20 things in a row"):
        run(tmp_path / "run", HERE)
    services.log.clear()
    services.fault = lambda number, path, query: "401"
    with pytest.raises(RunIncomplete, match="the service refuses us"):
        run(tmp_path / "run", HERE)
    assert len(services.log) <= 20
    services.fault = lambda number, path, query: ""
    assert run(tmp_path / "run", HERE).unfinished == 0


def test_an_unknown_hips_is_refused_before_anything_is_written(services: Services, tmp_path: Path) -> None:
    good = job(services, tmp_path, 4)
    text = good.sources[0].text.replace("sky", "void").replace("{band}", "x{band}")
    spec = SourceSpec(text, zeropoints=(22.5, 22.5, 22.5), pixel_scale_arcsec=SCALE)
    with pytest.raises(SourceError, match="No HiPS matches SIM/P/void/xg"):
        plan(Job(good.model, good.targets, (spec,), good.recipe), tmp_path / "run", HERE)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_first_source_that_covers_a_target_serves_it(services: Services, tmp_path: Path) -> None:
    """A mosaic of the western half of the sky, then a described service for the rest."""
    asked = job(services, tmp_path, 40)
    half = services.sky.planes
    for band in "grz":
        write = fits.PrimaryHDU(half[band][:, SIDE // 2 :], _header_from_column(services.sky, SIDE // 2, band))
        (tmp_path / "tiles").mkdir(exist_ok=True)
        write.writeto(tmp_path / f"tiles/{band}.fits")
    (tmp_path / "rest.yaml").write_text(
        f"{{title: Rest, cutouts: '{asked.sources[0].text}', bands: [g, r, z], zeropoints: 22.5, "
        f"pixel_scale_arcsec: {SCALE}, requests_per_s: 1000, credit: c, licence: l, tried: here}}"
    )
    sources = (SourceSpec.parse(f"mosaic:{tmp_path}/tiles"), SourceSpec.parse(str(tmp_path / "rest.yaml")))
    planned = plan(replace(asked, sources=sources), tmp_path / "run", HERE)
    assert "at most 1000 a second" in str(planned)
    services.log.clear()
    run(tmp_path / "run", HERE)
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, 40)
    assert (rows["status"] == Status.PREDICTED).all()
    west, east = (rows["ra"] < position(SIDE / 2 + 90, 0)[0]), (rows["ra"] > position(SIDE / 2 - 90, 0)[0])
    served = np.array(rows["image_set"], dtype=str)
    assert set(served) == {"mosaic:tiles", "rest"}
    assert (served[west] == "mosaic:tiles").all()
    assert (served[east] == "rest").all()
    assert len(services.log) == 3 * (served == "rest").sum()


def _header_from_column(sky: Sky, column: int, band: str) -> fits.Header:
    wcs = sky.wcs.deepcopy()
    wcs.wcs.crpix -= [column, 0]
    header = wcs.to_header()
    header["BUNIT"], header["FILTER"] = "nanomaggy", band
    return header


@pytest.mark.slow
def test_dask_workers_share_the_rate(services: Services, tmp_path: Path) -> None:
    asked = job(services, tmp_path, 512, "rrr", **{"politeness.requests_per_s": 100})
    plan(asked, tmp_path / "run", profile := ClusterProfile(kind="local", workers=2))
    services.log.clear()
    summary = run(tmp_path / "run", profile)
    assert summary.unfinished == 0
    assert len(services.log) == 512
    by_second = Counter(int(seen.time - services.log[0].time) for seen in services.log)
    assert max(by_second.values()) <= 105
