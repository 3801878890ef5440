"""Training curves as a picture."""

from __future__ import annotations

from pathlib import Path

from gzsurvey.training.job import read_log

PANELS = {
    "contrastive": "contrastive loss (-1: views agree)",
    "supervised": "vote loss per galaxy, training",
    "validation_votes": "vote loss per galaxy, validation",
    "loss": "loss of the labels, training",
    "validation_loss": "loss of the labels, validation",
    "knn_accuracy": "accuracy of nearest neighbours",
    "knn_balanced_accuracy": "balanced accuracy of nearest neighbours",
    "spread": "spread of the embedding (0: collapsed)",
    "dimensions": "directions of the embedding (1: collapsed)",
}
"""What is drawn, where it was measured."""


def draw_curves(out: Path) -> None:
    """Draw ``OUT/curves.png`` from ``OUT/metrics.jsonl``."""
    from matplotlib.figure import Figure

    records = read_log(out)
    present = [name for name in PANELS if any(record.get(name) is not None for record in records)]
    if not present:
        return
    figure = Figure(figsize=(4.2 * len(present), 3.2), layout="constrained")
    for place, name in enumerate(present):
        axes = figure.add_subplot(1, len(present), place + 1)
        points = [(record["epoch"], record[name]) for record in records if record.get(name) is not None]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
        axes.set_title(PANELS[name], fontsize=9)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(out / "curves.png", dpi=110)
