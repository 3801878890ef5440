"""The page beside a model file, for people: what it is, may be used for, and where it fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gzsurvey.card import Card, Head, NumberHead, VotesHead
from gzsurvey.export.agreement import LIMITS, TOLERANCE

_ENCODERS = {"fp32": "float32", "fp16": "half precision", "int8": "8-bit integers"}


def model_card(card: Card, file_name: str) -> str:
    """Describe a model in Markdown.

    Parameters
    ----------
    card : Card
        As it stands in the file.
    file_name : str
        Name of the ONNX file.
    """
    parts = [
        _title(card, file_name),
        _outputs(card),
        _input(card),
        _training(card),
        _credits(card),
        _agreement(card),
        _limits(card),
        _versions(card),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _title(card: Card, file_name: str) -> Iterator[str]:
    yield f"# {card.name}"
    yield ""
    yield f"`{file_name}`, written by gzsurvey on {card.created}. One self-contained ONNX file;"
    yield "everything below also stands in it as JSON, under the metadata key `gzsurvey.card`."
    if card.simulated:
        yield ""
        yield "**Trained on simulated galaxies only. It shows that the chain works; it knows no real sky.**"


def _outputs(card: Card) -> Iterator[str]:
    yield "## What it says"
    yield ""
    yield from _table(
        ("output", "shape", "meaning"),
        [("`embedding`", f"(batch, {card.embedding_size})", "where the galaxy lies among others like it")]
        + [(f"`{head.output}`", _shape(card.output_shapes[head.output]), _meaning(head)) for head in card.heads],
    )
    if card.members > 1:
        yield ""
        yield f"{card.members} networks stand side by side: a fraction is the mean over members, an interval holds"
        yield "quantiles of their equal mixture. The embedding is the first's."
    if card.votes is not None:
        yield ""
        yield "A vote fraction is a concentration over the sum of its question. Questions:"
        yield ""
        yield from _table(("question", "campaign", "answers"), _questions(card))
        yield ""
        yield f"Campaign whose volunteers a catalogue imitates by default: {card.default_campaign or 'none named'}."


def _shape(shape: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(map(str, shape))})"


def _meaning(head: Head) -> str:
    if isinstance(head, VotesHead):
        campaigns, questions = ", ".join(head.tree.campaigns), len(head.tree.questions)
        return f"Dirichlet concentrations of {head.width} answers to {questions} questions of {campaigns}"
    if isinstance(head, NumberHead):
        unit = f" ({head.unit})" if head.unit else ""
        return (
            f"mean and standard deviation of {head.task}{unit}; trained on {head.trained_on.low:g} to "
            f"{head.trained_on.high:g}"
        )
    shares = ", ".join(f"{name} {share:.3g}" for name, share in head.balance.items())
    one = "" if head.kind == "classes" else ", of which a galaxy may have several"
    return f"probability of {', '.join(head.classes)}{one}; shares among the labels: {shares or 'unknown'}"


def _questions(card: Card) -> Iterator[tuple[str, str, str]]:
    assert card.votes is not None
    for question in card.votes.tree.questions:
        yield f"`{question.name}`", question.campaign, ", ".join(question.answers)


def _input(card: Card) -> Iterator[str]:
    preparation = card.preparation
    stretch = preparation.stretch
    rule, size = preparation.scale_rule, preparation.image_size
    field = (
        f"{rule.fov_arcsec:g} arcsec"
        if rule.fov_arcsec is not None
        else f"the rule '{rule.kind}', at most {rule.max_fov_arcsec:g} arcsec"
    )
    yield "## What it expects"
    yield ""
    yield f"- Input `image`: {card.input_type} (batch, 3, {size}, {size}), planes R, G, B, north up, east left."
    yield "  Scaling of pixel values is inside the file: give it 0 to 255."
    yield f"- Bands {', '.join(preparation.bands)} (bluest first; the reddest is R)."
    yield from (f"- Mind: {warning}." for warning in preparation.warnings)
    unit = "the image" if stretch.flux_per == "pixel" else f"{stretch.reference_scale_arcsec:g} arcsec"
    yield f"- Stretch '{stretch.kind}' with {', '.join(f'{scale:g}' for scale in stretch.scales)}, on nanomaggies"
    yield f"  (AB zero point 22.5) per pixel of {unit}."
    yield f"- Field of view: {field}."
    yield f"- Ready images: the central {100 * preparation.crop:g} % of the side, resized with antialiasing."


def _training(card: Card) -> Iterator[str]:
    yield "## What it was trained on"
    yield ""
    yield from _table(("source", "galaxies"), [(c.name, f"{c.galaxies:,}") for c in card.credits])
    for quantity, limits in card.training_ranges.items():
        yield ""
        yield f"Range of {quantity} in training: {limits.low:g} to {limits.high:g}."
    yield ""
    yield f"Dataset sha256 `{card.dataset_sha256 or 'unknown'}`, recipe sha256 `{card.recipe_sha256 or 'unknown'}`."


def _credits(card: Card) -> Iterator[str]:
    yield "## Licences and citations"
    yield ""
    for note in card.licence_notes:
        yield f"**{note}**"
        yield ""
    for credit in card.credits:
        yield f"- {credit.name}: {credit.licence or 'licence not stated'}. {credit.citation}"


def _agreement(card: Card) -> Iterator[str]:
    yield "## Agreement with torch"
    yield ""
    images = max((loss.images for loss in card.torch_loss.values()), default=0)
    yield f"This file under ONNX Runtime (CPU) against its torch network in float32, {images} galaxies, in batches of"
    yield "1, 2, 7, 32 and all. Its encoder computes in " + _ENCODERS[card.precision] + ", its heads in float32."
    if card.precision == "fp32":
        yield f"Above {TOLERANCE:g} of an output's scale the export is refused."
    else:
        limit = LIMITS[card.precision]
        yield f"Above a mean change of {limit.mean:g} or a largest one of {limit.largest:g} the export is refused."
        yield f"Calibration was fitted to predictions in {_ENCODERS[card.calibrated_in]}."
    yield ""
    yield "Changes are of vote fractions, probabilities, numbers in their predicted standard deviations, and 1 - cosine"
    yield "of embeddings."
    yield ""
    yield from _table(
        ("output", "mean change", "largest change", "largest difference of a value"),
        [
            (f"`{name}`", f"{loss.mean:.2g}", f"{loss.largest:.2g}", f"{card.torch_difference[name]:.2g}")
            for name, loss in card.torch_loss.items()
        ],
    )


def _limits(card: Card) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "- It answers for every image, a star or an artefact too. Use `ood_score` and the sizes and magnitudes above"
    yield "  to judge whether a galaxy resembles its training galaxies."
    yield "- Fractions imitate volunteers looking at these images; they are not corrected for distance or seeing."
    yield "- Another survey's bands, depth or pixels must be prepared as above, and then still be compared with"
    yield "  galaxies whose shapes are known."
    if card.embedding_reference is None:
        yield "- The file holds no description of the training galaxies' embeddings, so `ood_score` is not available."
    if card.training_cells is None:
        yield "- Positions of the training galaxies are unknown, so `in_training` cannot be told."


def _versions(card: Card) -> Iterator[str]:
    yield "## Versions"
    yield ""
    yield from _table(("software", "version"), sorted(card.versions.items()))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
