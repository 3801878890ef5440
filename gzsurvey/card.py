"""The card: what an exported model expects and means, stored inside the ONNX file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from gzsurvey.errors import CardMismatch
from gzsurvey.recipes.base import Section
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.ranks import STEPS, RankMaps
from gzsurvey.votes.tree import DecisionTree

METADATA_KEY = "gzsurvey.card"
"""Key of the card in the ONNX file's ``metadata_props``."""
EMBEDDING = "embedding"
"""First output of every model, and the array of a run that keeps it."""


class _Part(Section):
    """A part of a card; what stands below its fields also stands in the JSON schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class TrainingRange(_Part):
    """Range of one measured quantity among the training galaxies."""

    low: float
    """Smallest."""
    high: float
    """Largest."""


class VotesHead(_Part):
    """Output ``concentration``: Dirichlet concentrations for volunteers' answers."""

    kind: Literal["votes"] = "votes"
    questions: tuple[dict[str, Any], ...]
    """Each with ``question``, ``suffix``, ``campaign``, ``answers`` and ``asked_after_any``, a list of
    (question, answer) pairs of the same campaign; the columns of the output are their answers, in order."""

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        try:
            answers = self.tree.n_answers
        except (KeyError, TypeError, ValueError):
            keys = "question, suffix, campaign, answers, asked_after_any"
            raise ValueError(f"'questions' must be a list of mappings with the keys {keys}") from None
        if answers == 0:
            raise ValueError("'questions' holds no answer")
        return self

    @property
    def output(self) -> str:
        """Name of the ONNX output."""
        return "concentration"

    @property
    def width(self) -> int:
        """Columns of the output."""
        return self.tree.n_answers

    @cached_property
    def tree(self) -> DecisionTree:
        """The question tree."""
        return DecisionTree.from_json(list(self.questions))


TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]


class _ProbabilityHead(_Part):
    task: TaskName
    """Name of the task in outputs and columns."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """In the order of the output's columns."""
    balance: dict[str, float]
    """Share of each class among the galaxies it was trained on."""

    @property
    def output(self) -> str:
        """Name of the ONNX output."""
        return f"{self.task}_probability"

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.classes)


class ClassesHead(_ProbabilityHead):
    """Output ``TASK_probability``: probabilities of classes, of which a galaxy has one."""

    kind: Literal["classes"] = "classes"
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """In the order of the output's columns."""


class LabelsHead(_ProbabilityHead):
    """Output ``TASK_probability``: a probability for each class; a galaxy may have several, or none."""

    kind: Literal["labels"] = "labels"


class NumberHead(_Part):
    """Output ``TASK``: mean and standard deviation of a number, taken as normally distributed."""

    kind: Literal["number"] = "number"
    task: TaskName
    """Name of the task in outputs and columns."""
    unit: str = ""
    """As the VOUnit standard writes it."""
    trained_on: TrainingRange
    """Smallest and largest of the numbers it was trained on."""

    @property
    def output(self) -> str:
        """Name of the ONNX output."""
        return self.task

    @property
    def width(self) -> int:
        """Columns of the output."""
        return 2


Head = Annotated[VotesHead | ClassesHead | LabelsHead | NumberHead, Field(discriminator="kind")]
TaskHead = ClassesHead | LabelsHead | NumberHead
"""A finetuned task; its columns carry its name."""


Precision = Literal["fp32", "fp16", "int8"]
"""In which numbers an encoder computes; heads and calibration compute in float32."""


class Loss(_Part):
    """How far one output of the file lies from torch in float32.

    In the unit that a user meets: vote fractions, probabilities, predicted standard deviations of a number, and
    1 - cosine of embeddings.
    """

    images: Annotated[int, Field(ge=1)]
    """Galaxies compared."""
    mean: Annotated[float, Field(ge=0)]
    """Mean absolute difference."""
    largest: Annotated[float, Field(ge=0)]
    """Largest absolute difference."""


class _Calibration(_Part):
    """Parameters of one calibration, and what it was worth."""

    galaxies: Annotated[int, Field(ge=1)]
    """Held-out galaxies it was fitted on."""
    loss_before: float
    """Mean negative log-likelihood of a galaxy's labels without it."""
    loss_after: float
    """With it, on the same galaxies."""


class VotesCalibration(_Calibration):
    """Of concentrations: `gzsurvey.model.calibration.VotesCalibrator` says how they are used."""

    kind: Literal["votes"] = "votes"
    offset: tuple[float, ...]
    """By question; 0: none."""
    slope: tuple[float, ...]
    """By question; 1: none."""
    sharpness: tuple[float, ...]
    """By question; 1: none."""
    shift: tuple[float, ...]
    """By answer; 0: none."""
    ranks: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = ()
    """By answer: shares of galaxies whose true fraction lies in each fortieth of its beta distribution; they add up to
    1, and none are even ones. Not part of the graph: ends of intervals are read by them."""

    @model_validator(mode="after")
    def _ranks_are_shares(self) -> Self:
        if any(len(shares) not in (0, STEPS) or (shares and abs(sum(shares) - 1.0) > 0.01) for shares in self.ranks):
            raise ValueError(f"'ranks' must have none or {STEPS} shares of each answer, which add up to 1")
        if len(self.ranks) not in (0, len(self.shift)):
            raise ValueError("'ranks' must have as many answers as 'shift'")
        return self


class ClassesCalibration(_Calibration):
    """Of probabilities that add up to 1: ``softmax(sharpness log p + shift)``."""

    kind: Literal["classes"] = "classes"
    sharpness: float
    """1: none."""
    shift: tuple[float, ...]
    """By class; 0: none."""


class LabelsCalibration(_Calibration):
    """Of probabilities that stand for themselves: ``sigmoid(sharpness logit(p) + shift)``."""

    kind: Literal["labels"] = "labels"
    sharpness: tuple[float, ...]
    """By class; 1: none."""
    shift: tuple[float, ...]
    """By class; 0: none."""


class NumberCalibration(_Calibration):
    """Of a number: its standard deviation times `scale`."""

    kind: Literal["number"] = "number"
    scale: Annotated[float, Field(gt=0.0)]
    """1: none."""


Calibration = Annotated[
    VotesCalibration | ClassesCalibration | LabelsCalibration | NumberCalibration, Field(discriminator="kind")
]


def rank_maps(calibrations: Sequence[Calibration | None], answers: int) -> RankMaps:
    """Return the maps of ranks of some members: even ones where a member has none."""
    votes = [given if isinstance(given, VotesCalibration) else None for given in calibrations]
    return RankMaps.of_members([() if given is None else given.ranks for given in votes], answers)


_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non[- ]?commercial", re.IGNORECASE)


class Credit(_Part):
    """Licence and citation of one training source."""

    name: str
    """The source, as users will read it."""
    licence: str
    """``CC BY 4.0``, ...; empty: not known."""
    citation: str
    """What to cite."""
    galaxies: int
    """How many of its galaxies trained the model."""

    @property
    def non_commercial(self) -> bool:
        """Whether the licence excludes commercial use (``CC BY-NC-SA 4.0``, ...)."""
        return _NON_COMMERCIAL.search(self.licence) is not None


class EmbeddingReference(_Part):
    """Where training galaxies lie in the embedding, for `ood_distance` and `ood_score`.

    The distance of a galaxy is the root mean square of its standardised coordinates
    along the principal components of the training galaxies, with what those components
    leave over as one coordinate more.
    """

    mean: tuple[float, ...]
    """Length D."""
    components: tuple[tuple[float, ...], ...]
    """K rows of length D, orthonormal."""
    scales: tuple[float, ...]
    """Standard deviations along the K components, then of the residual's length: K + 1."""
    quantiles: Annotated[tuple[float, ...], Field(min_length=2)]
    """Distances at 0, 1, ... 100 % of held-out training galaxies."""

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        if any(len(row) != len(self.mean) for row in self.components):
            raise ValueError("each of 'components' must be as long as 'mean'")
        if len(self.scales) != len(self.components) + 1 or min(self.scales) <= 0:
            raise ValueError("'scales' must be positive, one per component and one for what they leave over")
        if list(self.quantiles) != sorted(self.quantiles):
            raise ValueError("'quantiles' must ascend")
        return self


class Card(_Part):
    """Everything needed to use a model file correctly, and to judge what it says."""

    card_version: Literal[1] = 1
    """Of this list of keys. A card of another version is refused."""
    name: str
    """The model's name."""
    created: str
    """Date of export, ISO 8601."""
    simulated: bool = False
    """Trained on simulated galaxies only."""
    preparation: Preparation
    """How pixels become the model's input."""
    input_type: Literal["uint8", "float32"] = "uint8"
    """Of the input ``image``: 8-bit pictures, or flux."""
    embedding_size: Annotated[int, Field(ge=1)]
    """D, columns of the output ``embedding``."""
    heads: Annotated[tuple[Head, ...], Field(min_length=1)]
    """What the model predicts: one output each, besides ``embedding``."""
    members: Annotated[int, Field(ge=1, le=100)] = 1
    """Networks in the file. From two on, outputs of heads are (batch, member, ...); the embedding is the first's."""
    default_campaign: str | None = None
    """Whose volunteers a catalogue imitates unless it is told otherwise."""
    embedding_reference: EmbeddingReference | None = None
    """None: no `ood_distance`, no `ood_score`."""
    precision: Precision = "fp32"
    """In which numbers the encoder computes."""
    calibrated_in: Precision = "fp32"
    """In which numbers the encoder computed when `calibration` was fitted."""
    calibration: dict[str, tuple[Calibration | None, ...]] = {}
    """By output, one for each member: parameters of the calibration inside the graph, so that it can be undone."""
    training_ranges: dict[str, TrainingRange] = {}
    """By quantity: ``r50`` (arcsec), ``mag``."""
    training_cells: dict[str, tuple[int, ...]] | None = None
    """Order-18 NESTED cells of training galaxies: ``voted`` and ``seen``; None: unknown."""
    thumbnails: tuple[str, ...] = ()
    """Up to 64 training galaxies as the model saw them, base64 PNG."""
    dataset_sha256: str = ""
    """Of the training store's content."""
    recipe_sha256: str = ""
    """Of the training recipe."""
    checkpoint_sha256: str = ""
    """Of the weights' file it was exported from."""
    credits: tuple[Credit, ...] = ()
    """Every training source."""
    versions: dict[str, str] = {}
    """Software of training and export, by name."""
    torch_difference: dict[str, float] = {}
    """Largest absolute difference from torch, by output, measured at export."""
    torch_loss: dict[str, Loss] = {}
    """What these differences mean to a user, by output."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.input_type != self.preparation.input_type:
            raise ValueError(
                f"'input_type' {self.input_type!r} does not fit the stretch {self.preparation.stretch.kind!r}: "
                "'float32' and 'flux' belong together"
            )
        if len(self.outputs) != 1 + len(self.heads):
            raise ValueError("each of 'heads' must have an output name of its own")
        campaigns = self.votes.tree.campaigns if self.votes else ()
        if self.default_campaign is not None and self.default_campaign not in campaigns:
            known = ", ".join(campaigns) or "none"
            raise ValueError(
                f"'default_campaign' {self.default_campaign!r} is not in the question tree (it has {known})"
            )
        self._check_calibration()
        if self.embedding_reference and len(self.embedding_reference.mean) != self.embedding_size:
            raise ValueError("'embedding_reference' must have 'embedding_size' features")
        return self

    def _check_calibration(self) -> None:
        heads = {head.output: head for head in self.heads}
        for output, calibrations in self.calibration.items():
            kinds = {calibration.kind for calibration in calibrations if calibration is not None}
            if output not in heads or len(calibrations) != self.members or not kinds <= {heads[output].kind}:
                raise ValueError(f"'calibration' of {output!r} must have the kind of its head, once for each member")
            votes = [calibration for calibration in calibrations if isinstance(calibration, VotesCalibration)]
            if any(len(calibration.shift) != heads[output].width for calibration in votes):
                raise ValueError(f"'calibration' of {output!r} must have a 'shift' for each of its head's answers")

    @property
    def votes(self) -> VotesHead | None:
        """The votes head, if the model has one."""
        return next((head for head in self.heads if isinstance(head, VotesHead)), None)

    @cached_property
    def rank_maps(self) -> RankMaps:
        """How the ranks of each answer's true fractions are spread, for every member."""
        assert self.votes is not None
        calibrations = self.calibration.get(self.votes.output, (None,) * self.members)
        return rank_maps(calibrations, self.votes.width)

    @property
    def outputs(self) -> dict[str, int]:
        """Name and width of every ONNX output, the embedding first."""
        return {EMBEDDING: self.embedding_size} | {head.output: head.width for head in self.heads}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every ONNX output after its batch dimension."""
        side_by_side = (self.members,) if self.members > 1 else ()
        heads = {head.output: (*side_by_side, head.width) for head in self.heads}
        return {EMBEDDING: (self.embedding_size,)} | heads

    @property
    def licence_notes(self) -> tuple[str, ...]:
        """Sentences for whoever is about to use the model or to pass it on."""
        notes = [
            f"NON-COMMERCIAL: trained on {credit.name} under {credit.licence}; "
            f"ask its authors before any commercial use of this model or its catalogues."
            for credit in self.credits
            if credit.non_commercial
        ]
        unknown = [credit.name for credit in self.credits if not credit.licence.strip()]
        if unknown:
            notes.append(f"Licence not stated: {', '.join(unknown)}; find out before passing the model on.")
        if not self.credits:
            notes.append("No training source is recorded, so no licence is known.")
        return tuple(notes)

    def __str__(self) -> str:
        size = self.preparation.image_size
        shapes = {name: ", ".join(map(str, shape)) for name, shape in self.output_shapes.items()}
        outputs = ", ".join(f"{name} (batch, {shape})" for name, shape in shapes.items())
        lines = [f"{self.name}: image {self.input_type} (batch, 3, {size}, {size}) to {outputs}"]
        if self.torch_difference:
            differences = ", ".join(f"{name} {value:.1e}" for name, value in self.torch_difference.items())
            lines.append(f"Largest difference from torch: {differences}.")
        if self.precision != "fp32":
            losses = ", ".join(f"{name} {loss.mean:.1e}" for name, loss in self.torch_loss.items())
            lines.append(f"Encoder in {self.precision}; mean change of fractions, probabilities, cosines: {losses}.")
        if self.simulated:
            lines.append("Trained on simulated galaxies only: not for real sky.")
        return "\n".join([*lines, *self.licence_notes])

    def to_metadata(self) -> dict[str, str]:
        """Entries for the ONNX file's ``metadata_props``; `read_card` is the inverse."""
        return {METADATA_KEY: self.model_dump_json()}


def read_card(metadata: dict[str, str], where: str) -> Card:
    """Read the card out of an ONNX file's metadata.

    Parameters
    ----------
    metadata : dict
        ``metadata_props`` as a mapping.
    where : str
        The file, for errors.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        There is no card, or it lacks something; the message lists what.
    """
    if METADATA_KEY not in metadata:
        needed = ", ".join(name for name, info in Card.model_fields.items() if info.is_required())
        raise CardMismatch(where, f"has no card: metadata {METADATA_KEY!r} must be JSON with at least {needed}")
    try:
        return Card.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        problems = [f"{'.'.join(str(p) for p in e['loc']) or 'card'}: {e['msg']}" for e in error.errors()[:5]]
        raise CardMismatch(where, f"its card is not valid: {'; '.join(problems)}") from None


def schema_text() -> str:
    """JSON schema of the card, as ``docs/reference/card.schema.json`` holds it."""
    return json.dumps(Card.model_json_schema(), indent=2) + "\n"
