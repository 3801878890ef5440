"""Every column of the catalogues, named once.

FITS cards, the VOTable metadata, Zarr attributes and the reference page come from here.
A `Column` whose name holds ``{question}``, ``{answer}``, ... is a pattern: `Column.of`
fills it in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Card, ClassesHead, NumberHead, TaskHead, VotesHead
from gzsurvey.errors import CardMismatch, TableError
from gzsurvey.recipes.survey import KeptOfEmbedding
from gzsurvey.status import DESCRIPTIONS
from gzsurvey.votes.tree import DecisionTree, Question

Dtype = Literal["L", "I", "J", "K", "E", "D", "A"]
Flavour = Literal["catalogue", "full", "friendly"]

MAX_COLUMNS = 999
"""What a standard FITS binary table can hold."""
MAX_TEXT = 68
"""Characters of a string in a FITS card."""

_NUMPY = {"L": "S1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, and what it means."""

    name: str
    dtype: Dtype
    """FITS letter: L, I, J, K (logical, 16, 32, 64 bits), E, D (single, double), A (text)."""
    width: int = 1
    """Characters, for A."""
    unit: str = ""
    """As the VOUnit standard writes it."""
    ucd: str = ""
    description: str = ""
    """What is most particular stands first: FITS keeps the first 68 characters."""
    null: int | None = None
    """The integer that stands for "unknown"."""
    display: str = ""
    """Fortran format, as in TDISP."""

    def __post_init__(self) -> None:
        if self.dtype != "A" and self.dtype not in _NUMPY:
            raise ValueError(f"'dtype' must be one of A, {', '.join(_NUMPY)}, got {self.dtype!r}")
        if self.width < 1 or (self.width > 1 and self.dtype != "A"):
            raise ValueError(f"'width' must be at least 1, and 1 unless 'dtype' is A, got {self.width}")
        if self.null is not None and self.dtype not in "IJK":
            raise ValueError(f"'null' belongs to integers, column {self.name!r} is {self.dtype}")

    @property
    def form(self) -> str:
        """Value of TFORM."""
        return f"{self.width}A" if self.dtype == "A" else self.dtype

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """Big-endian type of one cell, as FITS stores it."""
        return np.dtype(f"S{self.width}" if self.dtype == "A" else _NUMPY[self.dtype])

    def is_null(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which values stand for "nothing": NaN, blank, or `null`; bool, shape (N,)."""
        if self.dtype in "ED":
            return np.asarray(np.isnan(values))
        if self.dtype == "A":
            return np.asarray(values == "")
        return np.zeros(len(values), bool) if self.null is None else np.asarray(values == self.null)

    @property
    def short_description(self) -> str:
        """The description, cut at a word to what a FITS card holds."""
        if len(self.description.replace("'", "''")) <= MAX_TEXT:
            return self.description
        limit = MAX_TEXT - 3 - self.description[:MAX_TEXT].count("'")
        return self.description[:limit].rsplit(" ", 1)[0].rstrip(" ,;:(") + "..."

    def of(self, **words: str) -> Column:
        """Return the column that this pattern stands for, e.g. ``of(question="bar")``."""
        return replace(self, name=self.name.format(**words), description=self.description.format(**words))


TARGET_ID = Column("id", "K", ucd="meta.id;meta.main", description="Target, as named in the target table")
RA = Column("ra", "D", 1, "deg", "pos.eq.ra;meta.main", "Right ascension, ICRS", display="F12.7")
DEC = Column("dec", "D", 1, "deg", "pos.eq.dec;meta.main", "Declination, ICRS", display="F12.7")
HEALPIX = Column(
    "healpix_29", "K", ucd="pos.healpix", null=-1,
    description="HEALPix cell, order 29, NESTED, ICRS; rows are in its order",
)  # fmt: skip
STATUS = Column(
    "status", "I", ucd="meta.code.qual", display="I6",
    description="What happened to the target: "
    + "; ".join(f"{int(code)} {text}" for code, text in DESCRIPTIONS.items()),
)  # fmt: skip
MISSING_FRACTION = Column(
    "missing_fraction", "E", ucd="meta.code.qual;obs.image", display="F6.4",
    description="Share of the cutout's pixels without data, in the worst band",
)  # fmt: skip
MASKED_FRACTION = Column(
    "masked_fraction", "E", ucd="meta.code.qual;obs.image", display="F6.4",
    description="Share of the cutout's pixels under the survey's mask bits; blank where it has no mask",
)  # fmt: skip
CUTOUT_WIDTH = Column(
    "cutout_width", "E", 1, "arcsec", "phys.angSize;instr.fov", "Width of the field shown to the model", display="F9.3"
)
IMAGE_ID = Column("image_id", "A", 1, ucd="meta.id;obs.image", description="Tile, brick or file at the centre")
IMAGE_SET = Column("image_set", "A", 1, ucd="meta.id;meta.dataset", description="Source that served the pixels")
LAYER = Column("{layer}", "E", ucd="instr.param", description="{layer}: layer of the survey, sampled at the target")

FRACTION = Column(
    "{question}_{answer}_fraction", "E", ucd="stat.probability;src.morph.type", display="F6.4",
    description="{label} ({campaign}): expected fraction of volunteers giving this answer among those asked, "
    "as seen in this image (not debiased)",
)  # fmt: skip
FRIENDLY_FRACTION = replace(
    FRACTION, description=f"{FRACTION.description}; blank where fewer than half of the volunteers would be asked"
)
LOWER = Column(
    "{question}_{answer}_lower", "E", ucd="stat.probability;stat.min", display="F6.4",
    description="{label} ({campaign}): lower end of the central 90% credible interval of the fraction "
    "(of very many volunteers)",
)  # fmt: skip
UPPER = Column(
    "{question}_{answer}_upper", "E", ucd="stat.probability;stat.max", display="F6.4",
    description="{label} ({campaign}): upper end of the central 90% credible interval of the fraction "
    "(of very many volunteers)",
)  # fmt: skip
DIRICHLET = Column(
    "{question}_{answer}_dirichlet", "E", ucd="stat.fit.param;src.morph.type", display="F8.4",
    description="{label} ({campaign}): concentration of the Dirichlet distribution of votes, as the model gives it",
)  # fmt: skip
ASKED = Column(
    "{question}_proportion_asked", "E", ucd="stat.probability;src.morph.type", display="F6.4",
    description="{label} ({campaign}): expected fraction of volunteers who would be asked this question",
)  # fmt: skip
LEADING = Column(
    "{question}_leading", "A", 1, ucd="src.morph.type",
    description="{label} ({campaign}): answer with the largest expected fraction; blank where fewer than half of "
    "the volunteers would be asked",
)  # fmt: skip

DISAGREEMENT = Column(
    "{question}_disagreement", "E", ucd="stat.stdev;src.morph.type", display="F6.4",
    description="{label} ({campaign}): how far the members of the ensemble part: 0 all agree, 0.5 half of them is "
    "sure of one answer and half of another",
)  # fmt: skip

OOD_DISTANCE = Column(
    "ood_distance", "E", ucd="stat.value;src.morph.param", display="F8.4",
    description="Distance from the training galaxies in the embedding, in their standard deviations",
)  # fmt: skip
OOD_SCORE = Column(
    "ood_score", "E", ucd="stat.rank;src.morph", display="F6.4",
    description="Share of held-out training galaxies that lie closer than ood_distance, 0 to 1",
)  # fmt: skip
IN_TRAINING = Column(
    "in_training", "I", ucd="meta.code.member", null=-1, display="I2",
    description="1 at (within about 1 arcsec of) a galaxy whose votes trained the model, 2 at one seen without "
    "votes, 0 at neither; null: unknown",
)  # fmt: skip
FAILS_CUTS = Column(
    "fails_training_cuts", "I", ucd="meta.code.qual", null=-1, display="I2",
    description="1 outside the size or magnitude range of the training galaxies, 0 inside; null: unknown",
)  # fmt: skip

SCORE = Column(
    "{task}_{class}_score", "E", ucd="stat.probability;src.morph.type", display="F6.4",
    description="{label} ({task}): probability of this class as the model gives it, at the balance of its labels",
)  # fmt: skip
PROBABILITY = Column(
    "{task}_{class}_probability", "E", ucd="stat.probability;src.morph.type", display="F6.4",
    description="{label} ({task}): probability of this class at the survey's prevalence; blank where none was given",
)  # fmt: skip
TASK_LEADING = Column(
    "{task}_leading", "A", 1, ucd="src.morph.type",
    description="{task}: class with the largest score; only where classes exclude each other",
)  # fmt: skip
NUMBER = Column("{task}", "E", ucd="src.morph.param;meta.modelled", description="{task}: as the model expects it")
NUMBER_LOWER = Column(
    "{task}_lower", "E", ucd="src.morph.param;stat.min", description="{task}: lower end of the central 90% interval"
)
NUMBER_UPPER = Column(
    "{task}_upper", "E", ucd="src.morph.param;stat.max", description="{task}: upper end of the central 90% interval"
)
TASK_DISAGREEMENT = Column(
    "{task}_disagreement", "E", ucd="stat.stdev;src.morph.type",
    description="{task}: how far the members of the ensemble part: root mean square distance of their probabilities, "
    "or of their means, from the mean of all",
)  # fmt: skip

ROW_COLUMNS = (
    RA, DEC, HEALPIX, STATUS, MISSING_FRACTION, MASKED_FRACTION, CUTOUT_WIDTH, IMAGE_ID, IMAGE_SET,
)  # fmt: skip
"""Stored per row under these names, in this order, after the id."""
QUALITY_COLUMNS = (OOD_DISTANCE, OOD_SCORE, IN_TRAINING, FAILS_CUTS)
FULL_ONLY = (LOWER, UPPER, DIRICHLET)
PATTERNS: tuple[Column, ...] = (
    TARGET_ID, *ROW_COLUMNS, LAYER, FRACTION, ASKED, LEADING, DISAGREEMENT, *FULL_ONLY, *QUALITY_COLUMNS, SCORE,
    PROBABILITY, TASK_LEADING, NUMBER, NUMBER_LOWER, NUMBER_UPPER, TASK_DISAGREEMENT,
)  # fmt: skip
"""All columns and patterns, in the order of the catalogue."""


@dataclass(frozen=True)
class Stored:
    """What a RUN holds per row besides the model's outputs."""

    target_id: Column = TARGET_ID
    """Name as in the targets; K, or A with the width of the longest id."""
    kept: tuple[Column, ...] = ()
    layers: tuple[Column, ...] = ()
    image_id_width: int = 1
    image_set_width: int = 1
    embedding: KeptOfEmbedding = "features"


@dataclass(frozen=True)
class Layout:
    """Which columns a catalogue has, for one card and one choice of campaigns.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        The model does not know a campaign; a label gives no valid column name, or two
        labels give the same one.
    gzsurvey.errors.TableError
        A kept column has the name of another, or there are more than 999 columns.
    """

    card: Card
    campaigns: tuple[str, ...]
    stored: Stored
    flavour: Flavour = "catalogue"
    prevalence: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By task and class: shares to expect in the survey."""

    def __post_init__(self) -> None:
        self._check(self.columns)

    @cached_property
    def tree(self) -> DecisionTree:
        """Questions of the chosen campaigns, their answers numbered from 0."""
        questions: list[Question] = []
        start = 0
        for question in self._questions:
            questions.append(replace(question, start=start))
            start += len(question.answers)
        return DecisionTree(tuple(questions))

    @cached_property
    def answers(self) -> np.ndarray:
        """Columns of the model's ``concentration`` for the answers of `tree`, int64."""
        parts = [np.arange(q.columns.start, q.columns.stop) for q in self._questions]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    @cached_property
    def tasks(self) -> tuple[TaskHead, ...]:
        """Finetuned tasks of the model."""
        return tuple(head for head in self.card.heads if not isinstance(head, VotesHead))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order of the catalogue."""
        stored = self.stored
        widths = {IMAGE_ID.name: stored.image_id_width, IMAGE_SET.name: stored.image_set_width}
        return (
            stored.target_id,
            *(replace(column, width=widths.get(column.name, 1)) for column in ROW_COLUMNS),
            *stored.layers,
            *(column for question in self.tree.questions for column in self.question_columns(question)),
            *QUALITY_COLUMNS,
            *(column for task in self.tasks for column in task_columns(task, self.card.members)),
            *stored.kept,
        )

    def question_columns(self, question: Question) -> tuple[Column, ...]:
        """Columns of one question."""
        answers = [self._words(question, answer) for answer in question.answers]
        fraction = FRIENDLY_FRACTION if self.flavour == "friendly" else FRACTION
        columns = [fraction.of(**words) for words in answers]
        about = self._words(question)
        leading = replace(LEADING.of(**about), width=max(len(answer) for answer in question.answers))
        columns += [ASKED.of(**about), leading]
        columns += [DISAGREEMENT.of(**about)] if self.card.members > 1 else []
        if self.flavour == "full":
            columns += [pattern.of(**words) for pattern in FULL_ONLY for words in answers]
        return tuple(columns)

    def column_name(self, pattern: Column, question: Question, answer: str = "") -> str:
        """Name that `pattern` takes for a question, or one of its answers."""
        return pattern.name.format(**self._words(question, answer))

    def _words(self, question: Question, answer: str = "") -> dict[str, str]:
        label = question.name if len(self.campaigns) > 1 else question.label
        original = f"{question.name}_{answer}" if answer else question.name
        return {
            "question": column_word(label),
            "answer": column_word(answer),
            "label": original,
            "campaign": question.campaign,
        }

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        head = self.card.votes
        if head is None:
            return ()
        tree = head.tree
        unknown = [name for name in self.campaigns if name not in tree.campaigns]
        if unknown:
            raise CardMismatch(self.card.name, f"has no campaign {unknown[0]!r}; it has {', '.join(tree.campaigns)}")
        return tuple(question for name in self.campaigns for question in tree.of_campaign(name))

    def _check(self, columns: Sequence[Column]) -> None:
        kept = {id(column) for column in self.stored.kept}
        taken: dict[str, Column] = {}
        for column in columns:
            if column is not self.stored.target_id and id(column) not in kept:
                _check_name(self.card.name, column)
            other = taken.setdefault(column.name.lower(), column)
            if other is column:
                continue
            if id(column) in kept:
                raise TableError(
                    "--keep", f"{column.name!r} is the name of a catalogue column; rename it in the targets"
                )
            raise CardMismatch(
                self.card.name, f"two labels become the column {column.name!r}: {other.description[:60]}; "
                f"{column.description[:60]}"
            )  # fmt: skip
        if len(columns) > MAX_COLUMNS:
            names = ", ".join(column.name for column in self.stored.kept)
            cure = f"keep fewer than {names}" if names else "choose fewer campaigns"
            raise TableError("catalogue", f"{len(columns)} columns, and FITS holds {MAX_COLUMNS}: {cure}")


def task_columns(head: TaskHead, members: int = 1) -> tuple[Column, ...]:
    """Columns of one finetuned task, of a model with so many members."""
    apart = (TASK_DISAGREEMENT.of(task=head.task),) if members > 1 else ()
    if isinstance(head, NumberHead):
        patterns = (NUMBER, NUMBER_LOWER, NUMBER_UPPER)
        numbers = (pattern.of(task=head.task) for pattern in patterns)
        return tuple(replace(column, unit=head.unit) for column in (*numbers, *apart))
    words = [{"task": head.task, "class": column_word(name), "label": name} for name in head.classes]
    columns = (*(SCORE.of(**w) for w in words), *(PROBABILITY.of(**w) for w in words))
    if not isinstance(head, ClassesHead):
        return (*columns, *apart)
    leading = replace(TASK_LEADING.of(task=head.task), width=max(len(name) for name in head.classes))
    return (*columns, leading, *apart)


def layer_column(layer: str, unit: str = "", description: str = "") -> Column:
    """Column of a sampled layer such as ``psfsize_r``."""
    column = replace(LAYER.of(layer=layer), unit=unit)
    return replace(column, description=description) if description else column


def column_word(label: str) -> str:
    """Turn a label into a part of a column name: ``featured-or-disk`` to ``featured_or_disk``."""
    return re.sub(r"[-\s]", "_", label)


def choose_campaigns(card: Card, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the campaigns to publish: those wanted, else the card's default, else its first.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        The model has no votes head, and a campaign is wanted.
    """
    if card.votes is None:
        if wanted:
            raise CardMismatch(card.name, f"predicts no votes, so campaign {wanted[0]!r} cannot be published")
        return ()
    return tuple(dict.fromkeys(wanted)) if wanted else (card.default_campaign or card.votes.tree.campaigns[0],)


def _check_name(model: str, column: Column) -> None:
    if not _NAME.fullmatch(column.name) or len(column.name) > MAX_TEXT:
        raise CardMismatch(
            model, f"a label gives the column {column.name!r}; names are at most {MAX_TEXT} of A-Z, a-z, 0-9 and _"
        )
