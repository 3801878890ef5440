"""Finetuning beside Zoobot's: the same encoder, the same starting weights, the same galaxies, its defaults and ours.

::

    python tests/benchmarks/bench_finetune.py PRETRAINED --labels gz_decals_rings/catalogue.csv \
        --images gz_decals_rings/images.zip --id-column iauname --column ring \
        --zoobot-python ZOOBOT/bin/python --results results.jsonl

ZOOBOT is an environment of its own: ``pip install "zoobot[pytorch]"``. Cross-validated; each fold's training part is
cut down to the numbers of labels asked for, a fifth of which validates. Both start from PRETRAINED, and from random
weights. Seconds are of training alone: processor time, of all threads, so that other programs on the machine hardly
change them, and by the clock. What stands in ``--results`` is not done again. Prints two Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from gzsurvey.cutouts.collection import decode, open_collection
from gzsurvey.evaluation.intervals import Bootstrap
from gzsurvey.images.prepare import prepare_picture
from gzsurvey.model.checkpoint import find_checkpoint, load_network, save_checkpoint
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import load_finetune_recipe
from gzsurvey.training import finetune
from gzsurvey.training.data import as_input
from gzsurvey.training.split import deal, divide, stratified_order

HERE = Path(__file__).parent
STARTS = ("pretrained", "random")
CELL = ("start", "labels", "program", "fold")
"""What names one finetuning."""
Answer = tuple[NDArray[np.float64], dict[str, float]]
"""Probabilities of the test galaxies' classes, and what training took."""


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--column", default="label")
    parser.add_argument("--zoobot-python", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 100, 10**9])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    Progress.quiet = True
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        Comparison(options, Path(folder)).run()
    report(options.results)


class Comparison:
    """All folds, both programs."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        network, self.info = load_network(find_checkpoint(options.checkpoint))
        self.weights = folder / "encoder.safetensors"
        save_file({name: t.contiguous() for name, t in network.encoder.state_dict().items()}, self.weights)
        table = pd.read_csv(options.labels)
        collection = open_collection(options.images)
        self.ids, self.target, self.names = [], [], []
        for row, (name, image) in enumerate(zip(table[options.id_column].astype(str), table["image"], strict=True)):
            member = collection.find(name, str(image))
            if member is None:
                continue
            picture = prepare_picture(decode(collection.read(member), member), self.info.preparation)
            self.names.append(folder / f"{row}.png")
            Image.fromarray(picture).save(self.names[-1])
            self.ids.append(name)
            self.target.append(int(table[options.column][row]))
        self.pictures = np.stack([np.asarray(Image.open(name)) for name in self.names])
        self.classes = np.array(self.target)

    def run(self) -> None:
        """Write a line of ``--results`` for each finetuning that it does not hold yet."""
        done = {tuple(found[key] for key in CELL) for found in read(self.options.results)}
        parts = deal(self.classes, self.options.folds, self.options.seed)
        # What is loaded at first use belongs to no training.
        self.gzsurvey("pretrained", stratified_order(self.classes, [self.options.seed])[:20], np.arange(2))
        for fold in range(self.options.folds):
            pool, test = np.flatnonzero(parts != fold), np.flatnonzero(parts == fold)
            pool = pool[stratified_order(self.classes[pool], [self.options.seed, fold])]
            for count in self.options.counts:
                chosen = pool[:count]
                for start in self.options.starts:
                    for program in (self.gzsurvey, self.zoobot):
                        cell = (start, len(chosen), program.__name__, fold)
                        if cell in done:
                            continue
                        probability, took = program(start, chosen, test)
                        found = {**dict(zip(CELL, cell, strict=True)), **took, "truth": self.classes[test].tolist(),
                                 "probability": probability[:, 1].tolist()}  # fmt: skip
                        with self.options.results.open("a") as results:
                            results.write(json.dumps(found) + "\n")
                        print(*cell, took, flush=True)

    def gzsurvey(self, start: str, chosen: NDArray[np.int64], test: NDArray[np.int64]) -> Answer:
        """Finetune by gzsurvey's defaults."""
        labels = self.folder / "labels.csv"
        ids = np.array(self.ids)[chosen]
        images = [self.names[row].name for row in chosen]
        pd.DataFrame({"id": ids, "image": images, "label": self.classes[chosen]}).to_csv(labels, index=False)
        changes = [f"seed={self.options.seed}", f"encoder.name={self.info.encoder}",
                   f"image_size={self.info.preparation.image_size}"]  # fmt: skip
        out = self.folder / f"gzsurvey-{time.monotonic_ns()}"
        checkpoint = str(self.options.checkpoint) if start == "pretrained" else "none"
        began = time.process_time(), time.perf_counter()
        # The pictures of the folder are prepared already, so nothing is cropped again.
        finetune(
            load_finetune_recipe("finetune", changes), self._uncropped(checkpoint), out, labels, self.folder, "cpu"
        )
        took = {"cpu": time.process_time() - began[0], "clock": time.perf_counter() - began[1]}
        network, _ = load_network(find_checkpoint(str(out)))
        with torch.inference_mode():
            given = network(as_input(torch.from_numpy(self.pictures[test])))["task_probability"]
        return given.double().numpy(), took

    def _uncropped(self, checkpoint: str) -> str:
        """Return the checkpoint, for pictures that are cropped already."""
        if checkpoint == "none":
            return checkpoint
        folder = self.folder / "uncropped"
        if not folder.is_dir():
            folder.mkdir()
            network, info = load_network(find_checkpoint(checkpoint))
            preparation = info.preparation.model_copy(update={"crop": 1.0})
            save_checkpoint(folder, "best", network, info.model_copy(update={"preparation": preparation}))
        return str(folder)

    def zoobot(self, start: str, chosen: NDArray[np.int64], test: NDArray[np.int64]) -> Answer:
        """Finetune by Zoobot's defaults, in its own process."""
        held_out = divide(self.classes[chosen], 0.2, self.options.seed)
        rows = [*((row, "val" if held else "train") for row, held in zip(chosen, held_out, strict=True)),
                *((row, "test") for row in test)]  # fmt: skip
        catalogue, out, job = (self.folder / name for name in ("catalogue.csv", "predicted.npy", "job.json"))
        pd.DataFrame(
            [
                {"id_str": str(row), "file_loc": str(self.names[row]), "label": self.classes[row], "part": part}
                for row, part in rows
            ]
        ).to_csv(catalogue, index=False)
        content = {
            "encoder": self.info.encoder, "weights": str(self.weights) if start == "pretrained" else None,
            "size": self.info.preparation.image_size, "classes": len(np.unique(self.classes)),
            "catalogue": str(catalogue), "out": str(out), "threads": self.options.threads, "seed": self.options.seed,
        }  # fmt: skip
        job.write_text(json.dumps(content))
        ran = subprocess.run([self.options.zoobot_python, HERE / "contestant_zoobot.py", job], capture_output=True,
                             text=True, check=False)  # fmt: skip
        if ran.returncode:
            raise RuntimeError(ran.stderr[-3000:])
        return np.load(out), json.loads(ran.stdout.splitlines()[-1])


def read(results: Path) -> list[dict[str, Any]]:
    """Return what was measured so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def report(results: Path) -> None:
    """Print both tables: what each program reaches, and how they differ on the same galaxies."""
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    frame, right = pd.DataFrame(read(results)), {}
    print("| start | labels | program | tested | accuracy (%) | ROC-AUC (%), by fold | CPU s | clock s |")
    print("|---|---|---|---|---|---|---|---|")
    for cell, rows in frame.groupby(list(CELL[:-1]), sort=False):
        folds = [(np.array(row.truth), np.array(row.probability)) for row in rows.itertuples()]
        right[cell] = np.concatenate([truth == (probability > 0.5) for truth, probability in folds])
        aucs = [100 * roc_auc_score(truth, probability) for truth, probability in folds]
        stated = [mean_with_interval(right[cell]), f"{np.mean(aucs):.1f} ({', '.join(f'{auc:.1f}' for auc in aucs)})",
                  *(f"{rows[time].mean():.0f}" for time in ("cpu", "clock"))]  # fmt: skip
        print(f"| {' | '.join(map(str, cell))} | {len(right[cell])} | {' | '.join(stated)} |")
    print("\n| start | labels | points of accuracy, gzsurvey - Zoobot |\n|---|---|---|")
    for start, labels in dict.fromkeys(cell[:2] for cell in right):
        ours, theirs = (right[start, labels, program].astype(float) for program in ("gzsurvey", "zoobot"))
        print(f"| {start} | {labels} | {mean_with_interval(ours - theirs)} |")


def mean_with_interval(values: NDArray[np.float64]) -> str:
    """State the mean over galaxies in per cent, with its 95 % bootstrap interval."""
    found = Bootstrap().estimate(lambda counts: (counts @ values)[:, None] / len(values), len(values))
    return f"{100 * found.value[0]:.1f} [{100 * found.low[0]:.1f}, {100 * found.high[0]:.1f}]"


if __name__ == "__main__":
    main()
