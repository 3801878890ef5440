"""Zoobot's `predict_on_catalog`; run by the Python of an environment that has zoobot.

``python contestant_zoobot_predict.py FOLDER COUNT ENCODER SIZE BATCH WORKERS THREADS``: cycles through the pictures of
FOLDER and prints one line of JSON: seconds of `predict` alone, and the largest memory of this process and its workers.
"""

from __future__ import annotations

import itertools
import json
import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from torchvision_beside_cpu import make_torchvision_importable


def main(folder: str, encoder: str, count: int, size: int, batch: int, workers: int) -> None:
    """Predict with random weights: speed does not depend on them."""
    make_torchvision_importable()
    import timm
    from galaxy_datasets.transforms import get_galaxy_transform, minimal_view_config
    from zoobot.pytorch.predictions.predict_on_catalog import predict
    from zoobot.pytorch.training.finetune import FinetuneableZoobotClassifier

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    view = minimal_view_config()
    view.output_size = size
    files = itertools.cycle(sorted(Path(folder).iterdir()))
    catalogue = pd.DataFrame(
        {"id_str": [str(i) for i in range(count)], "file_loc": [str(next(files)) for _ in range(count)]}
    )
    answers = 206
    model = FinetuneableZoobotClassifier(
        num_classes=answers, encoder=timm.create_model(encoder, num_classes=0), prog_bar=False
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        predict(
            catalogue, model, f"{out}/predictions.csv", [f"answer_{i}" for i in range(answers)],
            get_galaxy_transform(view), {"batch_size": batch, "num_workers": workers},
            {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False},
        )  # fmt: skip
    seconds = time.perf_counter() - began
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "peak_mb": sum(peaks)}))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[7]))
    main(sys.argv[1], sys.argv[3], *(int(sys.argv[i]) for i in (2, 4, 5, 6)))
