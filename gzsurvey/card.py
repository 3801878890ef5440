"""The card: what an exported model expects and means, stored inside the ONNX file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from gzsurvey.errors import CardMismatch
from gzsurvey.recipes.base import Section
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

METADATA_KEY = "gzsurvey.card"
"""Key of the card in the ONNX file's ``metadata_props``."""


class VotesHead(Section):
    """Output ``concentration``: Dirichlet concentrations for volunteers' answers."""

    kind: Literal["votes"] = "votes"
    questions: tuple[dict[str, Any], ...]
    """As `DecisionTree.to_json` writes them."""

    @property
    def output(self) -> str:
        """Name of the ONNX output."""
        return "concentration"

    @property
    def width(self) -> int:
        """Columns of the output."""
        return self.tree.n_answers

    @property
    def tree(self) -> DecisionTree:
        """The question tree."""
        return DecisionTree.from_json(list(self.questions))


class ClassesHead(Section):
    """Output ``TASK_probability``: probabilities of classes."""

    kind: Literal["classes"] = "classes"
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    balance: dict[str, float]
    """Share of each class among the labels it was trained on."""

    @property
    def output(self) -> str:
        """Name of the ONNX output."""
        return f"{self.task}_probability"

    @property
    def width(self) -> int:
        """Columns of the output."""
        return len(self.classes)


Head = Annotated[VotesHead | ClassesHead, Field(discriminator="kind")]


class Credit(Section):
    """Licence and citation of one training source."""

    name: str
    licence: str
    citation: str
    galaxies: int


class EmbeddingReference(Section):
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
    quantiles: tuple[float, ...]
    """Distances at 0, 1, ... 100 % of held-out training galaxies."""


class TrainingRange(Section):
    """Range of one measured quantity among the training galaxies."""

    low: float
    high: float


class Card(Section):
    """Everything needed to use a model file correctly, and to judge what it says."""

    card_version: Literal[1] = 1
    name: str
    created: str
    """Date of export, ISO 8601."""
    simulated: bool = False
    """Trained on simulated galaxies only."""
    preparation: Preparation
    input_type: Literal["uint8", "float32"] = "uint8"
    embedding_size: int
    heads: Annotated[tuple[Head, ...], Field(min_length=1)]
    default_campaign: str | None = None
    embedding_reference: EmbeddingReference | None = None
    calibration: dict[str, Any] = {}
    training_ranges: dict[str, TrainingRange] = {}
    """By quantity: ``r50`` (arcsec), ``mag``."""
    training_cells: dict[str, tuple[int, ...]] | None = None
    """Order-18 NESTED cells of training galaxies: ``voted`` and ``seen``; None: unknown."""
    thumbnails: tuple[str, ...] = ()
    """Up to 64 training galaxies as the model saw them, base64 PNG."""
    dataset_sha256: str = ""
    recipe_sha256: str = ""
    credits: tuple[Credit, ...] = ()
    versions: dict[str, str] = {}
    torch_difference: dict[str, float] = {}
    """Largest absolute difference from torch, by output, measured at export."""

    @property
    def votes(self) -> VotesHead | None:
        """The votes head, if the model has one."""
        return next((head for head in self.heads if isinstance(head, VotesHead)), None)

    @property
    def outputs(self) -> dict[str, int]:
        """Name and width of every ONNX output, the embedding first."""
        return {"embedding": self.embedding_size} | {head.output: head.width for head in self.heads}


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
