"""Finetuning beside Zoobot's: the same encoder, the same starting weights, the same galaxies, its defaults and ours.

::

    python tests/benchmarks/bench_finetune.py PRETRAINED --labels gz_decals_rings/catalogue.csv \
        --images gz_decals_rings/images.zip --id-column iauname --column ring --zoobot-python ZOOBOT/bin/python

Cross-validated; each fold's training part is cut down to the numbers of labels asked for, a fifth of which validates.
Both start from PRETRAINED, and from random weights. Seconds are processor time, of all threads, so that other programs
on the machine hardly change them. Prints one Markdown table and one line of JSON.
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
from gzsurvey.images.prepare import prepare_picture
from gzsurvey.model.checkpoint import find_checkpoint, load_network
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import load_finetune_recipe
from gzsurvey.training import finetune
from gzsurvey.training.data import as_input
from gzsurvey.training.split import deal, divide, stratified_order

HERE = Path(__file__).parent
STARTS = ("pretrained", "random")


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--column", default="label")
    parser.add_argument("--zoobot-python", required=True)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 100, 10**9])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    Progress.quiet = True
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        report(options, Comparison(options, Path(folder)).run())


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

    def run(self) -> list[dict[str, Any]]:
        """Return what was measured: start, program, labels, fold, accuracy, ROC-AUC, seconds."""
        found = []
        parts = deal(self.classes, self.options.folds, self.options.seed)
        for fold in range(self.options.folds):
            pool, test = np.flatnonzero(parts != fold), np.flatnonzero(parts == fold)
            pool = pool[stratified_order(self.classes[pool], [self.options.seed, fold])]
            for count in self.options.counts:
                chosen = pool[:count]
                for start in self.options.starts:
                    for program in (self.ours, self.zoobot):
                        probability, seconds = program(start, chosen, test)
                        right = probability.argmax(axis=1) == self.classes[test]
                        found.append({
                            "program": program.__name__, "start": start, "labels": len(chosen), "fold": fold,
                            "accuracy": float(right.mean()), "seconds": seconds,
                            "roc_auc": float(roc_auc_score(self.classes[test], probability[:, 1])),
                        })  # fmt: skip
                        print(found[-1], flush=True)
        return found

    def ours(self, start: str, chosen: NDArray[np.int64], test: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        """Finetune by gzsurvey's defaults."""
        labels = self.folder / "labels.csv"
        ids = np.array(self.ids)[chosen]
        images = [self.names[row].name for row in chosen]
        pd.DataFrame({"id": ids, "image": images, "label": self.classes[chosen]}).to_csv(labels, index=False)
        changes = [f"seed={self.options.seed}", f"encoder.name={self.info.encoder}",
                   f"image_size={self.info.preparation.image_size}"]  # fmt: skip
        out = self.folder / f"ours-{time.monotonic_ns()}"
        checkpoint = str(self.options.checkpoint) if start == "pretrained" else "none"
        began = time.process_time()
        # The pictures of the folder are prepared already, so nothing is cropped again.
        finetune(
            load_finetune_recipe("finetune", changes), self._uncropped(checkpoint), out, labels, self.folder, "cpu"
        )
        seconds = time.process_time() - began
        network, _ = load_network(find_checkpoint(str(out)))
        with torch.inference_mode():
            given = network(as_input(torch.from_numpy(self.pictures[test])))["task_probability"]
        return given.double().numpy(), seconds

    def _uncropped(self, checkpoint: str) -> str:
        """Return the checkpoint, for pictures that are cropped already."""
        if checkpoint == "none":
            return checkpoint
        from gzsurvey.model.checkpoint import save_checkpoint

        folder = self.folder / "uncropped"
        if not folder.is_dir():
            folder.mkdir()
            network, info = load_network(find_checkpoint(checkpoint))
            preparation = info.preparation.model_copy(update={"crop": 1.0})
            save_checkpoint(folder, "best", network, info.model_copy(update={"preparation": preparation}))
        return str(folder)

    def zoobot(
        self, start: str, chosen: NDArray[np.int64], test: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], float]:
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
        return np.load(out), json.loads(ran.stdout.splitlines()[-1])["seconds"]


def report(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    """Print the table."""
    frame = pd.DataFrame(found)
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| start | labels | program | accuracy (%) | ROC-AUC (%) | CPU s |\n|---|---|---|---|---|---|")
    for (start, labels, program), rows in frame.groupby(["start", "labels", "program"], sort=False):
        stated = [f"{100 * rows[name].mean():.1f} ± {100 * rows[name].std() / len(rows) ** 0.5:.1f}"
                  for name in ("accuracy", "roc_auc")]  # fmt: skip
        print(f"| {start} | {labels} | {program} | {' | '.join(stated)} | {rows['seconds'].mean():.0f} |")
    print("\n" + json.dumps({"options": {k: str(v) for k, v in vars(options).items()}, "found": found}))


if __name__ == "__main__":
    main()
