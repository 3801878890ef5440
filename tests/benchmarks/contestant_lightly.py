"""lightly's BYOL, put together as in the example of its documentation; run by an interpreter that has lightly.

``python contestant_lightly.py FOLDER SIZE BATCH WORKERS THREADS DEVICE PRECISION``

PRECISION is that of autocast, as ours has it: ``auto`` is bfloat16 on a GPU, float32 on a CPU. On a GPU its loader pins
memory; all else is the example's.
"""

from __future__ import annotations

import copy
import sys
from importlib.metadata import version
from itertools import repeat

import torch
from torchvision_beside_cpu import make_torchvision_importable
from turns import take_turns


class ExampleBYOL(torch.nn.Module):
    """Online and momentum network."""

    def __init__(self) -> None:
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad
        from torchvision.models import resnet18

        super().__init__()
        self.backbone = torch.nn.Sequential(*list(resnet18().children())[:-1])
        self.projection_head = BYOLProjectionHead(512, 1024, 256)
        self.prediction_head = BYOLPredictionHead(256, 1024, 256)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

    def forward_momentum(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()


def loader(folder: str, size: int, batch_size: int, workers: int, pinned: bool) -> torch.utils.data.DataLoader:
    from lightly.data import LightlyDataset
    from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    transform = BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=size, gaussian_blur=0.0),
        view_2_transform=BYOLView2Transform(input_size=size, gaussian_blur=0.0),
    )
    return torch.utils.data.DataLoader(
        LightlyDataset(folder, transform=transform),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
    )


def main(folder: str, size: int, batch_size: int, workers: int, device: torch.device, precision: str) -> None:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.utils import update_momentum

    gpu = device.type == "cuda"
    half = precision == "bfloat16" or (precision == "auto" and gpu)
    model = ExampleBYOL().to(device)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    batches = (batch for epoch in repeat(loader(folder, size, batch_size, workers, gpu)) for batch in epoch)

    def step() -> None:
        x0, x1 = (view.to(device, non_blocking=True) for view in next(batches)[0])
        update_momentum(model.backbone, model.backbone_momentum, m=0.996)
        update_momentum(model.projection_head, model.projection_head_momentum, m=0.996)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            p0, z0 = model(x0), model.forward_momentum(x0)
            p1, z1 = model(x1), model.forward_momentum(x1)
            loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    wait = torch.cuda.synchronize if gpu else lambda: None
    take_turns(step, wait, {"lightly": version("lightly"), "torch": torch.__version__})


if __name__ == "__main__":
    make_torchvision_importable()
    torch.set_num_threads(int(sys.argv[5]))
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), torch.device(sys.argv[6]), sys.argv[7])
