"""A first look: random targets as the model will see them, beside galaxies that it learned from."""

from __future__ import annotations

import base64
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gzsurvey.card import EMBEDDING, Card
from gzsurvey.cutouts.source import CutoutSource, Miss
from gzsurvey.images.prepare import prepare_cutout, shown
from gzsurvey.inference import OnnxModel
from gzsurvey.outliers import embedding_distance
from gzsurvey.status import DESCRIPTIONS
from gzsurvey.survey.sources import answers, requests
from gzsurvey.survey.targets_file import Columns

ACROSS = 8
GAP = 2
FAR = 0.99
"""`ood_score` above which a galaxy is called unlike the training galaxies."""
Picture = NDArray[Any]


@dataclass(frozen=True)
class Look:
    """What a random sample of the targets shows."""

    asked: int
    pictures: dict[int, Picture] = field(default_factory=dict)
    """Prepared images, shape (S, S, 3), by row of the sample."""
    misses: dict[int, Miss] = field(default_factory=dict)
    embeddings: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    """Of the predicted ones, shape (n, D)."""
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """`ood_score` of the predicted ones; empty: the card cannot say."""
    seconds_per_target: float = float("nan")

    def lines(self) -> list[str]:
        """Return what a user should know of it."""
        if not self.asked:
            return []
        lines = [f"sample: {len(self.pictures)} of {self.asked} random targets have pixels"]
        why = Counter(DESCRIPTIONS[miss.status] for miss in self.misses.values())
        lines += [f"  {number} {reason}" for reason, number in why.most_common()]
        if self.misses and not self.pictures:
            lines.append(f"  first reason: {next(iter(self.misses.values())).reason}")
        if len(self.scores):
            far = float((self.scores > FAR).mean())
            lines.append(
                f"distance from the training galaxies: median ood_score {np.median(self.scores):.2f} (0.5: like them); "
                f"{far:.0%} of the sample lies farther than 99% of them"
            )
        return lines


def sample_rows(rows: int, wanted: int) -> NDArray[np.int64]:
    """Return random rows, ascending; the same for every plan of this length."""
    chosen = np.random.default_rng([rows, wanted]).choice(rows, min(rows, wanted), replace=False)
    return np.sort(chosen).astype(np.int64)


def look(model: OnnxModel, sources: Sequence[CutoutSource], targets: Columns, missing_limit: float) -> Look:
    """Fetch, prepare and predict a sample.

    Parameters
    ----------
    model : OnnxModel
        The model.
    sources : sequence of CutoutSource
        As a worker opens them.
    targets : dict of str to array, shape (n,)
        The sample, as `read_block_targets` gives a block.
    missing_limit : float
        From the recipe.
    """
    n = len(targets["id"])
    if n == 0:
        return Look(0)
    preparation = model.card.preparation
    model.run(np.zeros((1, *model.input_shape), dtype=model.card.input_type))
    started = time.monotonic()
    pictures: dict[int, Picture] = {}
    misses: dict[int, Miss] = {}
    for row, answer in answers(sources, requests(targets, range(n), preparation), missing_limit):
        if isinstance(answer, Miss):
            misses[row] = answer
        else:
            pictures[row] = prepare_cutout(answer.pixels, preparation)
    seen = Look(n, pictures, misses)
    if pictures:
        batch = np.stack(list(pictures.values()))
        seen = replace(seen, embeddings=model.run(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))[EMBEDDING])
        if model.card.embedding_reference is not None:
            seen = replace(seen, scores=embedding_distance(seen.embeddings, model.card.embedding_reference)[1])
    return replace(seen, seconds_per_target=(time.monotonic() - started) / n)


def draw(look: Look, card: Card, path: Path) -> None:
    """Draw the sample beside training galaxies from the card.

    Parameters
    ----------
    look : Look
        The sample.
    card : Card
        Holds training thumbnails.
    path : Path
        A PNG file.
    """
    side = int(np.clip(card.preparation.image_size, 64, 112))
    seen = {row: shown(picture, card.preparation) for row, picture in look.pictures.items()}
    left = _sheet([seen.get(row) for row in range(look.asked)], side, "no pixels")
    right = _sheet([_decode(text) for text in card.thumbnails[:64]], side, "no picture")
    title = 22
    width = left.width + right.width + side // 4
    page = Image.new("RGB", (width, max(left.height, right.height) + title), "white")
    page.paste(left, (0, title))
    page.paste(right, (left.width + side // 4, title))
    pen = ImageDraw.Draw(page)
    pen.text((4, 5), f"{look.asked} random targets, as the model sees them", fill="black")
    pen.text((left.width + side // 4 + 4, 5), f"training galaxies of {card.name}"[:80], fill="black")
    page.save(path, format="PNG")


def _sheet(pictures: Sequence[Picture | None], side: int, without: str) -> Image.Image:
    down = max(1, -(-len(pictures) // ACROSS))
    page = Image.new("RGB", (ACROSS * side, down * side), "white")
    for number, picture in enumerate(pictures):
        corner = (number % ACROSS * side, number // ACROSS * side)
        if picture is None:
            pen = ImageDraw.Draw(page)
            pen.rectangle((*corner, corner[0] + side - GAP, corner[1] + side - GAP), fill="#eeeeee", outline="white")
            pen.text((corner[0] + 6, corner[1] + side // 2 - 5), without, fill="#888888")
        else:
            page.paste(Image.fromarray(picture).resize((side - GAP, side - GAP)), corner)
    return page


def _decode(text: str) -> Picture:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))
