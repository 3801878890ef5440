"""Torch eager in an environment of its own: which memory the allocator keeps is settled before a program starts.

``python contestant_eager.py ENCODER SIZE BATCH THREADS LAYOUT``, LAYOUT ``contiguous`` or ``channels_last``. Takes
turns as `turns` says; a step predicts one batch.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from bench_inference import OUTPUTS, network_of, torch_run
from turns import take_turns

from gzsurvey.export.graph import PixelsToOutputs
from gzsurvey.export.pictures import invented_images


def main(encoder: str, size: int, batch: int, layout: str) -> None:
    """Predict with random weights."""
    model = PixelsToOutputs(network_of(encoder), OUTPUTS).eval()
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    run, images = torch_run(model, "cpu", None), np.resize(invented_images(size), (batch, 3, size, size))
    take_turns(lambda: run(images), lambda: None, {"batch": batch})


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[5])
