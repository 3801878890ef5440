"""Hyrax's `engine`, its way to run an ONNX file; run by the Python of an environment that has hyrax.

``python contestant_hyrax.py MODEL FOLDER COUNT SIZE BATCH``: cycles through the pictures of FOLDER, gives MODEL (uint8,
planes first) the middle of each at SIZE pixels, and prints one line of JSON: seconds of `engine` alone, and the largest
memory of this process. MODEL's first output is what Hyrax keeps.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision_beside_cpu import make_torchvision_importable

make_torchvision_importable()
from hyrax import Hyrax  # noqa: E402 (what it imports needs torchvision)
from hyrax.datasets.dataset_registry import HyraxDataset  # noqa: E402

PREPARE = "def prepare_inputs(batch):\n    return batch['data']['image']\n"
SIZE = int(sys.argv[4])
COUNT = int(sys.argv[3])


class Pictures(HyraxDataset):
    """JPEG files of a folder, over and over."""

    def __init__(self, config: dict[str, Any], data_location: Path) -> None:
        self.files = sorted(Path(data_location).iterdir())
        super().__init__(config)

    def __len__(self) -> int:
        return COUNT

    def get_image(self, row: int) -> np.ndarray:
        picture = Image.open(self.files[row % len(self.files)]).convert("RGB")
        small = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))

    def get_object_id(self, row: int) -> str:
        return str(row)


def main(model: str, images: str, batch: int) -> None:
    """Run `engine` in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copyfile(model, place / "model.onnx")
        (place / "prepare_inputs.py").write_text(PREPARE)
        program = Hyrax()
        program.set_config("general.results_dir", str(place / "results"))
        program.set_config("general.log_level", "error")
        program.set_config("data_loader.batch_size", batch)
        wanted = {
            "dataset_class": "Pictures", "data_location": images, "fields": ["image", "object_id"],
            "primary_id_field": "object_id",
        }  # fmt: skip
        program.set_config("data_request", {"infer": {"data": wanted}})
        began = time.perf_counter()
        program.engine(model_directory=folder)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Of this program: `getrusage` would count what the one that started it held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[5]))
