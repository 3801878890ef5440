"""Finetuning and evaluation on real galaxies, from a folder laid out as docs/how-to/real-sky.md says.

::

    python tests/benchmarks/bench_real.py DATA OUT        # or: make real-evaluation DATA=...

builds the stores, pretrains on Galaxy Zoo 2, finetunes every task from the pretrained weights and from none, evaluates
each by cross-validation on galaxies of which its network knows nothing, and prints the tables of
docs/benchmarks/real-galaxies.md, and how long each command took. Only commands of gzsurvey do the work, so that OUT is
resumed when repeated; every evaluation leaves its page in ``OUT/pages``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from gzsurvey.cli import cli
from gzsurvey.dataset.store import Store
from gzsurvey.votes.tree import DecisionTree

FOLDS = 3
COLUMNS = ("Class1.1", "Class1.2", "Class2.1")
"""Of the published table: share of all volunteers who said smooth, featured or disk, edge-on."""
SMOOTH = ("round_smooth", "in_between_round_smooth", "cigar_shaped_smooth")
FEATURED = (
    "barred_spiral", "unbarred_tight_spiral", "unbarred_loose_spiral", "edge_on_with_bulge", "edge_on_without_bulge",
)  # fmt: skip
MEASURES = ("accuracy", "balanced_accuracy", "roc_auc")


def main() -> None:
    """Do what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    work = Work(options.data, options.out)
    votes = work.votes()
    tasks = list(work.tasks())
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, torch {torch.__version__}\n")  # fmt: skip
    print("\n".join([*votes, "", *tasks, "", *work.durations()]))


class Work:
    """What lies in OUT."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out
        self.pretrained, self.galaxy_zoo_2, self.labelled = out / "pretrained", out / "store", out / "labelled"
        self.tables = out / "tables"
        self.tables.mkdir(parents=True, exist_ok=True)
        self.took: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._gzsurvey("dataset", "build", "real-gz2", self.galaxy_zoo_2, "--set", f"data={data}")
        self._gzsurvey("dataset", "build", "real-labelled", self.labelled, "--set", f"data={data}")
        self._gzsurvey("pretrain", "real-gz2-pretrain", self.pretrained, "--dataset", self.galaxy_zoo_2)

    def votes(self) -> Iterator[str]:
        """Yield the table of vote fractions on Galaxy Zoo 2's test galaxies."""
        page = self._evaluated(self.pretrained, "votes", "--dataset", self.galaxy_zoo_2)
        predicted = pd.read_parquet(page / "predictions.parquet").set_index("id")
        published = pd.read_csv(self.data / "gz2_sdss" / "catalogue.csv", dtype={"galaxy_id": str})
        truth = published.set_index("galaxy_id").loc[predicted.index, list(COLUMNS)].to_numpy()
        guesses = {
            "hybrid": _cumulative(predicted),
            "PCA and ridge": self._ridge(published, predicted.index),
            "the mean": np.tile(self._training(published)[list(COLUMNS)].mean().to_numpy(), (len(truth), 1)),
        }
        yield f"{len(truth)} test galaxies of Galaxy Zoo 2"
        yield f"| RMSE | {' | '.join(guesses)} |"
        yield "|---" * (1 + len(guesses)) + "|"
        for k, name in enumerate(COLUMNS):
            cells = [_rmse((guess[:, k] - truth[:, k]) ** 2) for guess in guesses.values()]
            yield f"| {name} | {' | '.join(cells)} |"

    def tasks(self) -> Iterator[str]:
        """Yield the table of classes."""
        rings = self._labels("gz_decals_rings", "iauname", "ring", {"1": "ring", "0": "no_ring"}.get)
        gz1 = self._labels("gz1_sdss_classes", "sdss_dr7_objid", "gz1_class_name", str)
        ten = self._labels("galaxy10_decals_sample", None, "galaxy10_class_name", str)
        yield f"| task | start | labels | tested | {' | '.join(m.replace('_', ' ') for m in MEASURES)} | CPU s |"
        yield "|---" * (5 + len(MEASURES)) + "|"
        for limit in (20, 100, None):
            yield from self._both("rings", rings, limit)
        yield from self._both("galaxy_zoo_1", gz1, None)
        yield from self._both("galaxy10", ten, None)
        yield from self._across()

    def durations(self) -> Iterator[str]:
        """Yield the table of what the commands of this run took; what an earlier run had done took no time."""
        yield "| command | runs | CPU s | clock s |"
        yield "|---|---|---|---|"
        for command, runs in self.took.items():
            cpu, clock = np.sum(runs, axis=0)
            yield f"| {command} | {len(runs)} | {cpu:.0f} | {clock:.0f} |"

    def _both(self, task: str, labels: Path, limit: int | None) -> Iterator[str]:
        """Finetune from the pretrained weights and from none, and test by cross-validation."""
        for start in ("pretrained", "none"):
            name = f"{task}-{limit or 'all'}-{start}"
            changes = [f"task={task}", f"folds={FOLDS}", *([] if limit is None else [f"label_limit={limit}"])]
            tuned, seconds = self._finetuned(name, start, labels, self.labelled, changes)
            page = self._evaluated(tuned, name, "--labels", labels, "--images", self.labelled, "--split", "folds")
            learnt = limit or round(len(pd.read_csv(labels)) * (1 - 1 / FOLDS))
            yield _row(page, task, start, learnt, seconds)

    def _across(self) -> Iterator[str]:
        """Learn smooth or featured on SDSS's images, and test on them and on DECaLS's."""
        sdss = self._labels("gz2_sdss", "galaxy_id", "Class1.2", lambda f: "featured" if float(f) > 0.5 else "smooth")
        kinds = dict.fromkeys(SMOOTH, "smooth") | dict.fromkeys(FEATURED, "featured")
        decals = self._labels("galaxy10_decals_sample", None, "galaxy10_class_name", kinds.get)
        for start in ("pretrained", "none"):
            tuned, seconds = self._finetuned(f"featured-{start}", start, sdss, self.galaxy_zoo_2, ["task=featured"])
            learnt = int((Store(self.galaxy_zoo_2).galaxies["split"] != "test").sum())
            for survey, labels, images, split in (
                ("SDSS", sdss, self.galaxy_zoo_2, "test"), ("DECaLS", decals, self.labelled, "train"),
            ):  # fmt: skip
                page = self._evaluated(
                    tuned, f"featured-{survey}-{start}", "--labels", labels, "--images", images, "--split", split
                )
                yield _row(page, f"featured, SDSS to {survey}", start, learnt, seconds)

    def _labels(self, folder: str, id_column: str | None, column: str, name: Callable[[str], str | None]) -> Path:
        """Write a table of ids and classes; galaxies without a class are left out."""
        frame = pd.read_csv(self.data / folder / "catalogue.csv", dtype=str)
        ids = frame["image"].map(lambda image: Path(image).stem) if id_column is None else frame[id_column]
        table = pd.DataFrame({"id": ids, "label": frame[column].map(name)}).dropna()
        path = self.tables / f"{folder}-{column}-{table['label'].nunique()}.csv"
        table.to_csv(path, index=False)
        return path

    def _finetuned(
        self, name: str, start: str, labels: Path, images: Path, changes: list[str]
    ) -> tuple[Path, float | None]:
        recipe, checkpoint = ("finetune", self.pretrained) if start == "pretrained" else ("real-direct", "none")
        overrides = [word for change in changes for word in ("--set", change)]
        out = self.out / "finetuned" / name
        said = self.out / "finetuned" / f"{name}.json"
        seconds = self._gzsurvey(
            "finetune", recipe, checkpoint, out, "--labels", labels, "--images", images, *overrides
        )
        if not said.is_file():
            said.write_text(json.dumps({"cpu_seconds": seconds}))
        return out, json.loads(said.read_text())["cpu_seconds"]

    def _evaluated(self, checkpoint: Path, name: str, *given: str | Path) -> Path:
        page = self.out / "pages" / name
        self._gzsurvey("evaluate", checkpoint, page, *given)
        return page

    def _training(self, published: pd.DataFrame) -> pd.DataFrame:
        galaxies = Store(self.galaxy_zoo_2).galaxies
        return published.set_index("galaxy_id").loc[galaxies.loc[galaxies["split"] == "train", "id"]]

    def _ridge(self, published: pd.DataFrame, tested: pd.Index) -> NDArray[np.float64]:
        """Predict the published columns by ridge regression on 100 principal components of the pixels."""
        store = Store(self.galaxy_zoo_2)
        rows = pd.Series(np.arange(len(store)), index=store.galaxies["id"])
        training = self._training(published)
        pixels, unseen = (
            store.images(rows[ids].to_numpy()).reshape(len(ids), -1).astype(np.float32) / 255
            for ids in (training.index, tested)
        )
        model = make_pipeline(PCA(100, random_state=0), RidgeCV(np.logspace(-2, 4, 13)))
        return np.clip(model.fit(pixels, training[list(COLUMNS)]).predict(unseen), 0, 1)

    def _gzsurvey(self, command: str, *arguments: str | Path) -> float:
        """Run a command of this checkout; return the seconds of processor time of its threads and processes."""
        print("gzsurvey", command, *arguments, flush=True)
        began = np.array([_processor_seconds(), time.perf_counter()])
        cli.main([command, *map(str, arguments), "--quiet"])
        cpu, clock = np.array([_processor_seconds(), time.perf_counter()]) - began
        print(f"{cpu:.0f} CPU s, {clock:.0f} s", flush=True)
        self.took[command].append((cpu, clock))
        return float(cpu)


def _processor_seconds() -> float:
    """Of this process and of those it has started that have ended."""
    return sum(os.times()[:4])


def _cumulative(predicted: pd.DataFrame) -> NDArray[np.float64]:
    """Predicted shares of all volunteers, as the published table has them."""
    first, edge_on = DecisionTree.load("gz2").questions[:2]
    smooth, featured, yes = (
        predicted[f"{name}_predicted"] for name in (*first.vote_columns[:2], edge_on.vote_columns[0])
    )
    return np.column_stack([smooth, featured, featured * yes])


def _rmse(squared: NDArray[np.float64]) -> str:
    drawn = np.random.default_rng(0).choice(squared, (1000, len(squared))).mean(axis=1)
    low, high = np.sqrt(np.quantile(drawn, [0.025, 0.975]))
    return f"{np.sqrt(squared.mean()):.3f} [{low:.3f}, {high:.3f}]"


def _row(page: Path, task: str, start: str, learnt: int, seconds: float | None) -> str:
    results: dict[str, Any] = json.loads((page / "evaluation.json").read_text())
    cells = ["{value:.3f} [{low:.3f}, {high:.3f}]".format(**results[name]) for name in MEASURES]
    return f"| {task} | {start} | {learnt} | {results['galaxies']} | {' | '.join(cells)} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
