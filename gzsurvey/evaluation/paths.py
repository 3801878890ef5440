"""Where an evaluation keeps what.

::

    OUT/
    ├── job.json             inputs and recipe: OUT is refused for another evaluation
    ├── out.lock             which process works in it
    ├── evaluation.json      every number with its interval
    ├── evaluation.html      the same as one self-contained page, with figures and galaxies
    ├── predictions.parquet  one row per galaxy: id, position, what is known, what is predicted
    ├── figures/*.png        the figures of the page
    ├── unmatched.csv        labels without an image, where there are any
    └── outputs.npy, outputs.json, images.npy, fold-0/ ...    while it works
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluationPaths:
    """The places in OUT."""

    out: Path

    @property
    def results(self) -> Path:
        """Every number."""
        return self.out / "evaluation.json"

    @property
    def page(self) -> Path:
        """The page."""
        return self.out / "evaluation.html"

    @property
    def predictions(self) -> Path:
        """One row per galaxy."""
        return self.out / "predictions.parquet"

    def figure(self, name: str) -> Path:
        """Return one figure."""
        return self.out / "figures" / f"{name}.png"

    @property
    def outputs(self) -> Path:
        """What all members give, while it is computed and measured."""
        return self.out / "outputs.npy"

    @property
    def outputs_done(self) -> Path:
        """How many galaxies of `outputs` are finished, and of what."""
        return self.out / "outputs.json"

    def fold(self, number: int | str) -> Path:
        """Return where outputs of one fold of a cross-validation are, as those above."""
        return self.out / f"fold-{number}"

    @property
    def images(self) -> Path:
        """Prepared images of labelled galaxies, as `gzsurvey.training.pictures` leaves them."""
        return self.out / "images.npy"
