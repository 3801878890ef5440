"""Zoobot's own finetuning, with its defaults; run by the Python of an environment that has zoobot.

``python contestant_zoobot.py JOB.json``: ``encoder`` (a timm name), ``weights`` (safetensors of it, or null), ``size``
(pixels), ``classes``, ``catalogue`` (CSV with ``id_str``, ``file_loc``, ``label``, ``part``: train, val or test),
``threads``, ``seed``, ``out``. Writes OUT, the probabilities of the test galaxies, and prints one line of JSON: epochs,
and what training took, in seconds of processor time and by the clock.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torchvision_beside_cpu import make_torchvision_importable


def main() -> None:
    """Finetune, predict, say how long it took."""
    make_torchvision_importable()
    import timm
    from galaxy_datasets.pytorch.galaxy_datamodule import CatalogDataModule
    from galaxy_datasets.transforms import default_view_config, get_galaxy_transform, minimal_view_config
    from lightning.pytorch.loggers import CSVLogger
    from zoobot.pytorch.training.finetune import FinetuneableZoobotClassifier, get_trainer

    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    table = pd.read_csv(job["catalogue"])
    parts = {part: rows.reset_index(drop=True) for part, rows in table.groupby("part")}
    views = {name: get_galaxy_transform(resized(config(), job["size"]))
             for name, config in (("train", default_view_config), ("test", minimal_view_config))}  # fmt: skip
    data = CatalogDataModule(
        label_cols=["label"], train_catalog=parts["train"], val_catalog=parts["val"], test_catalog=parts["test"],
        predict_catalog=parts["test"], train_transform=views["train"], test_transform=views["test"],
        batch_size=min(256, len(parts["train"])), num_workers=0,
    )  # fmt: skip
    encoder = timm.create_model(job["encoder"], num_classes=0)
    if job["weights"] is not None:
        encoder.load_state_dict(load_file(job["weights"]))
    began = time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = FinetuneableZoobotClassifier(
            num_classes=job["classes"], encoder=encoder, prog_bar=False, seed=job["seed"]
        )
        trainer = get_trainer(folder, accelerator="cpu", logger=CSVLogger(folder), enable_progress_bar=False,
                              enable_model_summary=False)  # fmt: skip
        trainer.fit(model, data)
        best = FinetuneableZoobotClassifier.load_from_checkpoint(
            trainer.checkpoint_callback.best_model_path, encoder=encoder, weights_only=False
        )
        took = {"cpu": time.process_time() - began[0], "clock": time.perf_counter() - began[1]}
        predicted = torch.cat(trainer.predict(best, data)).double().numpy()
    np.save(job["out"], predicted)
    print(json.dumps({**took, "epochs": trainer.current_epoch}))


def resized(config: object, size: int) -> object:
    """Set the size of a view configuration."""
    config.output_size = size  # type: ignore[attr-defined]
    return config


if __name__ == "__main__":
    main()
