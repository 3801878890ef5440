"""`dataset info`: what a store holds, in words and in pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gzsurvey.dataset.store import SPLITS, Store
from gzsurvey.images.prepare import shown
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.tree import DecisionTree

ROWS_AT_ONCE = 65_536
COLUMNS, ROWS = 8, 6
"""Galaxies of a contact sheet."""
TILE, CAPTION = 144, 30
"""Pixels of a galaxy and of the lines below it."""


def info(store: Store) -> str:
    """Describe a store.

    Parameters
    ----------
    store : Store
        An opened store.

    Returns
    -------
    str
        Galaxies, votes, answers known per campaign, splits, what was left out.
    """
    galaxies, side = store.galaxies, store.info.preparation.image_size
    lines = [
        f"{store.path}: {len(store):,} galaxies, {side} x {side} pixels, "
        f"{len(store.tree.questions)} questions, {store.tree.n_answers} answers"
        + (", simulated" if store.info.simulated else ""),
        f"content {store.info.content_sha256[:16]}, recipe {store.info.recipe_sha256[:16]}",
        "",
        _by_split(galaxies),
        "",
        _by_campaign(store),
    ]
    lines += [""] + [
        f"{c.name}: {c.galaxies:,} galaxies; licence {c.licence}; {c.citation}" for c in store.info.credits
    ]
    return "\n".join([*lines, "", *_left_out(store)])


def _by_split(galaxies: pd.DataFrame) -> str:
    table = pd.crosstab(galaxies["source"], galaxies["split"]).reindex(columns=list(SPLITS), fill_value=0)
    table = table.loc[list(dict.fromkeys(galaxies["source"]))]
    table.insert(0, "galaxies", table.sum(axis=1))
    table["with votes"] = (galaxies["campaign"] != "").groupby(galaxies["source"]).sum()
    table.loc["all"] = table.sum()
    return str(table.rename_axis(index=None, columns=None).to_string())


def _by_campaign(store: Store) -> str:
    counts = _Counts(store.tree)
    for start in range(0, len(store), ROWS_AT_ONCE):
        counts.add(np.asarray(store.votes[start : start + ROWS_AT_ONCE]))
    rows = []
    for name in store.tree.campaigns:
        questions = store.tree.of_campaign(name)
        indices = [store.tree.questions.index(q) for q in questions]
        asked = counts.asked[indices]
        rows.append(
            {
                "campaign": name,
                "galaxies": int(asked.max()),
                "questions": f"{(asked > 0).sum()}/{len(questions)}",
                "answers known": int(sum(n * len(q.answers) for n, q in zip(asked, questions, strict=True))),
                "votes": int(counts.votes[indices].sum()),
                "volunteers": round(float(counts.votes[indices[0]] / max(1, asked[0])), 1),
            }
        )
    assumed = int(store.galaxies["assumed_votes"].sum())
    note = f"\n{assumed:,} galaxies have fractions only: their counts assume a number of volunteers" if assumed else ""
    return pd.DataFrame(rows).to_string(index=False) + note


class _Counts:
    """Galaxies asked and votes given, by question, added up block by block."""

    def __init__(self, tree: DecisionTree) -> None:
        self.starts = [q.start for q in tree.questions]
        self.asked: NDArray[np.int64] = np.zeros(len(self.starts), dtype=np.int64)
        self.votes: NDArray[np.int64] = np.zeros(len(self.starts), dtype=np.int64)

    def add(self, votes: NDArray[np.int32]) -> None:
        totals = np.add.reduceat(votes, self.starts, axis=1)
        self.asked += (totals > 0).sum(axis=0)
        self.votes += totals.sum(axis=0, dtype=np.int64)


def _left_out(store: Store) -> list[str]:
    lines = [f"{store.info.rejected:,} galaxies without a usable image (rejected.csv)"]
    lines += [f"{n:,} galaxies of {name} held out" for name, n in store.info.held_out.items()]
    if store.info.without_positions:
        lines.append(
            f"no positions: {', '.join(store.info.without_positions)}; there, only images of equal pixels "
            "are known to show the same galaxy"
        )
    return lines


def contact_sheet(store: Store, path: Path, seed: int = 0) -> Path:
    """Draw random galaxies of a store, as the model sees them, with what volunteers said.

    Parameters
    ----------
    store : Store
        An opened store.
    path : Path
        A ``.png`` file.
    seed : int
        Chooses the galaxies.

    Returns
    -------
    Path
        `path`.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(store), size=min(COLUMNS * ROWS, len(store)), replace=False))
    votes = store.vote_counts(rows)
    height = TILE + CAPTION
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 4) + 4, lines * (height + 4) + 4), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for i, (row, pixels) in enumerate(zip(rows, store.images(rows), strict=True)):
        x, y = 4 + (i % COLUMNS) * (TILE + 4), 4 + (i // COLUMNS) * (height + 4)
        sheet.paste(
            Image.fromarray(shown(pixels, store.info.preparation)).resize((TILE, TILE), Image.Resampling.BICUBIC),
            (x, y),
        )
        galaxy = store.galaxies.iloc[int(row)]
        draw.text((x, y + TILE + 1), f"{galaxy['id']}"[:24], fill="black", font=font)
        draw.text((x, y + TILE + 14), caption(votes[i], store.tree, galaxy["source"]), fill="#555555", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")
    return path


def caption(votes: NDArray[np.int32], tree: DecisionTree, source: str) -> str:
    """Say what volunteers answered to the first question they were asked, in a few letters.

    Parameters
    ----------
    votes : int32, shape (A,)
        Counts of one galaxy.
    tree : DecisionTree
        Its questions.
    source : str
        Shown where there are no votes.
    """
    fractions = expected_fractions(votes[None, :].astype(np.float64), tree)[0]
    for question in tree.questions:
        part = fractions[question.columns]
        if np.isfinite(part).all():
            named = zip(question.answers, part, strict=True)
            return "  ".join(f"{answer.partition('-')[0][:8]} {value:.2f}" for answer, value in list(named)[:2])
    return f"{source[:20]}: no votes"
