"""The benchmarks' own parts, run once; what they measure here means nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import bench_classify
import bench_cutouts
import bench_engine
import bench_inference
import bench_plan
import bench_pretrain as bench
import bench_publish
import contestant_gzsurvey as contestant
import numpy as np
import on_a_gpu
import pytest
import torch
from PIL import Image
from turns import measure

import gzsurvey
from gzsurvey.dataset.store import Store
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.training.pretrain import Pretraining

SETTINGS = bench.Settings(encoder="test_resnet", size_px=32, batch_size=8, approach="contrastive", threads=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def store(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return bench.make_store(pictures, None, SETTINGS.size_px, 20, tmp_path_factory.mktemp("benchmark") / "store")


def test_whole_steps_and_the_bound_compute_the_same(store: Store, tmp_path: Path) -> None:
    turns, weights = {}, {}
    for side in ("end_to_end", "bound"):
        training = Pretraining(SETTINGS.recipe(), store, tmp_path, torch.device("cpu"))
        step = getattr(contestant, side)(training)
        turns[side] = [measure(step, lambda: None, 1)]
        weights[side] = [parameter.detach().clone() for parameter in training.model.parameters()]
    assert all(torch.equal(ours, alone) for ours, alone in zip(*weights.values(), strict=True))
    about = {"flops": contestant.flops(step), "matrix_rate": contestant.matrix_rate(training), "precision": "float32"}
    assert about["flops"] > 1e6 * SETTINGS.batch_size
    cells = bench.encoders_row(turns, SETTINGS, about).split("|")
    assert len(cells) == len(bench.encoders_header()[0].split("|"))
    rate = SETTINGS.batch_size / turns["bound"][0]["seconds"]
    assert cells[5].strip() == f"{rate:.1f} [{rate:.1f}, {rate:.1f}]"


@pytest.mark.parametrize("groups", [1, 8])
def test_gradients_of_a_convolution_cost_as_much_each_as_the_convolution(groups: int) -> None:
    layer = torch.nn.Conv2d(8, 16, 3, groups=groups, bias=False)
    images = torch.randn(2, 8, 12, 12, requires_grad=True)
    counted = contestant.flops(lambda: layer(images).sum().backward())
    forward = 2 * (2 * 16 * 10 * 10) * (8 // groups * 3 * 3)
    assert counted == 3 * forward


def test_lightly_gets_the_pictures_that_train(store: Store, tmp_path: Path) -> None:
    folder = bench.write_pictures(store, tmp_path / "pictures")
    rows = store.rows("train")
    assert {int(path.stem) for path in folder.iterdir()} == set(rows)
    assert np.array_equal(np.asarray(Image.open(folder / f"{rows[0]}.png")), store.images(rows[:1])[0])


def test_ratios_are_taken_round_by_round() -> None:
    def turns(seconds: tuple[float, ...]) -> list[dict[str, float]]:
        return [{"steps": 1, "seconds": s, "cpu_seconds": s, "faults": 80, "peak_mb": 900} for s in seconds]

    fast, slow = turns((1.0, 4.0, 1.0)), turns((2.0, 8.0, 2.0))
    columns = bench.columns_of(["auto", "bfloat16"], "cpu")
    found = {bench.contestant(side, column): fast for side in ("end_to_end", "bound") for column in columns}
    found |= {bench.contestant("lightly", column): slow for column in columns}
    lines = bench.lightly_table(found, SETTINGS, columns).splitlines()
    assert lines[0].endswith("| allocator as it is | freed memory kept | freed memory kept, bfloat16 |")
    assert len({line.count("|") for line in lines}) == 1
    assert "| gzsurvey / lightly |" + " 2.00 [2.00, 2.00] |" * 3 in lines
    assert "| lightly's BYOL, end to end, images/s |" + " 4.0 [1.0, 4.0] |" * 3 in lines
    assert "| gzsurvey, page faults per image |" + " 10 [10, 10] |" * 3 in lines


def test_on_a_gpu_torch_keeps_what_it_frees_in_any_case() -> None:
    assert bench.columns_of(["auto"], "cuda") == [(bench.AS_IS, "auto")]


def test_rounds_go_on_while_they_fit() -> None:
    class Still(bench.Contestant):
        def __init__(self) -> None:
            self.turns = 0

        def turn(self, steps: int) -> dict[str, float]:
            self.turns += 1
            return {"steps": steps}

    contestants = {"a": Still(), "b": Still()}
    turns = bench.play(contestants, 2, 0.0)
    assert [len(turns[name]) for name in "ab"] == [bench.LEAST_ROUNDS] * 2


@pytest.mark.peers
def test_against_lightly(shared_data: Path) -> None:
    python = os.environ.get("LIGHTLY_PYTHON")
    if not python:
        pytest.skip("LIGHTLY_PYTHON names no interpreter that has lightly")
    sky = shared_data / "gz2_sdss"
    table = bench.main(
        [str(sky / "images.zip"), "--catalogue", str(sky / "catalogue.csv"), "--lightly-python", python, "--short"]
    )
    assert re.search(r"\| gzsurvey / lightly \| [\d.]+ \[", table)


@pytest.mark.peers
@pytest.mark.parametrize("peer", ["Zoobot", "Hyrax"])
def test_a_classification_beside_peers(pictures: Path, peer: str) -> None:
    python = os.environ.get(f"{peer.upper()}_PYTHON")
    if not python:
        pytest.skip(f"{peer.upper()}_PYTHON names no interpreter that has {peer}")
    quick = ["--images", str(pictures), "--count", "64", "--encoder", "resnet18", "--size", "64", "--rounds", "1"]
    table = bench_classify.main([*quick, "--seconds", "0.1", f"--{peer.lower()}-python", python])
    assert len(re.findall(rf"\| end to end / {peer}, [^|]*\| [\d.]+", table)) == 4


@pytest.mark.slow
def test_a_model_alone_is_measured_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Printing comes last: what fails there has cost all the rest."""
    quick = ["--encoders", "test_resnet", "--sizes", "32", "--rounds", "1", "--seconds", "0.01", "--no-compile"]
    found = bench_inference.main(quick)
    assert all(rate > 0 for (rate,) in found["test_resnet 32"]["rates"].values())
    printed = capsys.readouterr().out
    for name in found["test_resnet 32"]["rates"]:
        assert f"| {name} |" in printed
    assert sum("freed memory kept" in name for name in found["test_resnet 32"]["rates"]) == 2


def test_what_a_gpu_is_to_show_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, code: str, seconds: float = 60) -> on_a_gpu.Step:
        return on_a_gpu.Step(name, ("-c", code), seconds)

    monkeypatch.setattr(on_a_gpu, "steps", lambda *_: [
        made("good", "print(7)"), made("bad", "raise SystemExit(3)"), made("endless", "while True: pass", 0.5),
        made("late", "print(8)", 1e4),
    ])  # fmt: skip
    ended = on_a_gpu.main([str(tmp_path), "--minutes", "60"])
    assert (tmp_path / "good.txt").read_text() == "7\n"
    assert ended["bad"] == "failed with 3; see bad.txt"
    assert ended["endless"] == "ran past 0 s"
    assert ended["late"] == "was not begun: too late"
    assert on_a_gpu.main([str(tmp_path), "--minutes", "0"]) == {
        "good": "was done before", "bad": ended["late"], "endless": ended["late"], "late": ended["late"],
    }  # fmt: skip


@pytest.mark.slow
def test_a_classification_is_measured_to_the_end(pictures: Path) -> None:
    quick = ["--images", str(pictures), "--count", "64", "--encoder", "test_resnet", "--size", "32", "--rounds", "1"]
    table = bench_classify.main([*quick, "--seconds", "0.01", "--threads", "1"])
    assert re.search(r"\| end to end / the bound \| [\d.]+", table)
    memory = bench_classify.main([*quick, "--memory", "64"])
    assert re.search(r"\| 64 \| 1 \| \d+ \| [1-9]\d+ \|", memory)


@pytest.mark.slow
def test_what_comes_after_a_run_is_measured_to_the_end(tmp_path: Path) -> None:
    lines = "\n".join(bench_publish.published(tmp_path / "run", 1_000))
    for stage in ("catalogues", "HATS", "publish, in all", "report"):
        assert re.search(rf"\| {stage}[^|]*\| [\d.]+ \| [\d.]+ \| [1-9]\d* \| [1-9]\d* \|", lines)
    merged = "\n".join(bench_publish.merged(tmp_path / "two", 1_000))
    for stage in ("merge and publish", "catalogue.fits alone, by astropy"):
        assert f"| {stage} | " in merged
    assert len(gzsurvey.read_catalogue(tmp_path / "two/merged")) == 950


def test_the_engine_and_the_bare_loop_do_the_same_galaxies(tmp_path: Path) -> None:
    bench_engine.write_model(tmp_path / "model.onnx")
    bench_engine.write_targets(tmp_path / "targets-700.parquet", 700)
    template = bench_engine.planned(tmp_path, 700, "template", 2)
    assert bench_engine.bare(template, (0, 1)) > 0
    found = bench_engine.in_turns(
        {"none": lambda: bench_engine.engine(template, "none", ClusterProfile(kind="none", threads=1))}, rounds=1
    )
    assert found["none"][0] > 0
    assert not (tmp_path / "none").exists()


def test_memory_that_grows_is_seen(tmp_path: Path) -> None:
    memory = bench_engine.Memory({"flat": os.getpid(), "growing": os.getpid()})
    memory.samples = [(float(at), {"flat": 100.0, "growing": 100.0 + at}) for at in range(30)]
    slopes = memory.slopes()
    assert slopes["flat"] == (100.0, 100.0, pytest.approx(0.0, abs=1e-12))
    assert slopes["growing"] == (119.5, 129.0, pytest.approx(19 / 119.5))
    bench_engine.draw_memory(memory.samples, "made up", tmp_path / "memory.png")
    assert Image.open(tmp_path / "memory.png").width > 500


@pytest.mark.slow
def test_planning_is_measured_to_the_end() -> None:
    table = bench_plan.main(["--targets", "2000"])
    assert re.search(r"\| 2,000 \| fits \| [\d.]+ \| [\d.]+ \| [\d,]+ \| [\d,]+ MB \|", table)
    assert all(f"| 2,000 | {name} |" in table for name in ("parquet", "csv"))


@pytest.mark.slow
def test_cutouts_are_measured_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--galaxies", "16", "--side", "200", "--turns", "1", "--suffixes", ".fits.fz"]
    found = bench_cutouts.main([str(tmp_path / "sky"), *quick, "--ways", "native", "cutout2d"])
    assert all(turn["rate"] > 0 for turns in found.values() for turn in turns)
    printed = capsys.readouterr().out
    assert "| .fits.fz | native |" in printed
    assert "| .fits.fz | cutout2d (astropy" in printed
