"""What a release says about itself, in every file that says it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gzsurvey import __version__
from gzsurvey.errors import RecipeError
from gzsurvey.recipes.authors import Author
from gzsurvey.status import DESCRIPTIONS, Status
from gzsurvey.survey.finished import FinishedRun

_DOI = re.compile(r"10\.\d{4,9}(\.\d+)*/[A-Za-z0-9:/_;\-.()\[\]\\]+")
"""As the Citation File Format 1.2.0 takes it."""
_DOI_URL = "https://doi.org/"
_SHARE_ALIKE = re.compile(r"(?<![a-z])sa(?![a-z])|share[- ]?alike", re.IGNORECASE)
_NO_DERIVATIVES = re.compile(r"(?<![a-z])n[d](?![a-z])|no[- ]?deriv", re.IGNORECASE)


@dataclass(frozen=True)
class About:
    """A release: its title, its authors, and the run that it holds."""

    run: FinishedRun
    title: str
    authors: tuple[Author, ...]
    version: str
    doi: str
    """Without web address; empty: none."""
    date: str
    """Of the release, ISO 8601."""

    @cached_property
    def campaigns(self) -> tuple[str, ...]:
        """Whose volunteers the catalogue imitates, as it was published."""
        activity = json.loads(self.run.paths.provenance.read_bytes())["activity"]["gzsurvey:run"]
        return tuple(json.loads(activity["gzsurvey:campaigns"]))

    @property
    def predicted(self) -> int:
        """Rows with a prediction."""
        return self.run.counts.get(Status.PREDICTED, 0)

    @property
    def licence(self) -> str:
        """Licence of the release, an SPDX identifier: CC BY 4.0 with the conditions of its training sources."""
        credits = self.run.card.credits
        conditions = ["NC"] if any(credit.non_commercial for credit in credits) else []
        conditions += ["SA"] if any(_SHARE_ALIKE.search(credit.licence) for credit in credits) else []
        return "-".join(["CC-BY", *conditions, "4.0"])

    @property
    def licence_notes(self) -> tuple[str, ...]:
        """What whoever passes the release on must know of its training sources."""
        no_derivatives = [credit.name for credit in self.run.card.credits if _NO_DERIVATIVES.search(credit.licence)]
        notes = [f"NO DERIVATIVES: the licence of {name} forbids them; ask its authors." for name in no_derivatives]
        return (*self.run.card.licence_notes, *notes)

    @property
    def credits(self) -> tuple[str, ...]:
        """Whom to credit: what trained the model, whose images it saw, and who made the votes."""
        trained = [
            f"{credit.name}: {credit.galaxies:,} training galaxies, {credit.licence or 'licence not stated'}. "
            f"Cite: {credit.citation}"
            for credit in self.run.card.credits
        ]
        images = [
            f"Images of {source.spec.survey or source.name}: "
            f"{source.spec.credit or 'no credit stated'}, {source.spec.licence or 'licence not stated'}."
            for source in self.run.record.sources
        ]
        volunteers = ["Galaxy Zoo's classifications were made by its volunteers."] if self.run.card.votes else []
        return (*trained, *images, *volunteers)

    @property
    def abstract(self) -> str:
        """What the release is, in a few sentences."""
        record, card = self.run.record, self.run.card
        sources = ", ".join(source.spec.survey or source.name for source in record.sources)
        text = (
            f"Morphologies of {record.rows:,} galaxies, {self.predicted:,} of them with predictions, as the model "
            f"{card.name!r} sees them in images of {sources}. Made with gzsurvey {__version__}."
        )
        if self.campaigns:
            text += f" Vote fractions imitate the volunteers of Galaxy Zoo in the campaign {', '.join(self.campaigns)}."
        return f"{text} The model was trained on simulated galaxies only." if card.simulated else text

    @property
    def statuses(self) -> tuple[tuple[int, str, int], ...]:
        """Code, meaning and number of targets, by code."""
        return tuple((code, DESCRIPTIONS[Status(code)], n) for code, n in sorted(self.run.counts.items()) if n)

    @property
    def limits(self) -> tuple[str, ...]:
        """What the catalogue cannot say, one sentence or two each."""
        return tuple(self._limits())

    def _limits(self) -> Iterator[str]:
        card, record = self.run.card, self.run.record
        if card.simulated:
            yield "The model was trained on simulated galaxies only: it is not for real sky."
        if card.votes:
            named = ", ".join(self.campaigns)
            yield (
                "Fractions are not debiased: they describe the galaxy as seen in this image, and features fade in "
                "fainter, smaller and more distant galaxies."
            )
            yield f"Fractions are those of the volunteers of {named}; other campaigns asked other questions."
        yield from self._training()
        if not any(part for parts in card.calibration.values() for part in parts):
            yield "Predictions are not calibrated on held-out galaxies."
        if card.precision != "fp32":
            yield f"The model computes in {card.precision}, which changes predictions; its card says by how much."
        lost = record.rows - self.predicted
        if lost:
            yield f"{lost:,} of {record.rows:,} targets have no prediction; missing.ecsv says why, target by target."
        for cut in record.cuts:
            yield f"The catalogue is as complete as its targets: {cut.name} left {cut.after:,} of {cut.before:,}."

    def _training(self) -> Iterator[str]:
        card = self.run.card
        if card.training_ranges:
            units = {"r50": " arcsec"}
            ranges = (
                f"{name} {r.low:g} to {r.high:g}{units.get(name, '')}" for name, r in card.training_ranges.items()
            )
            yield f"The training galaxies have {', '.join(ranges)}; outside, fails_training_cuts is 1."
        else:
            yield "The sizes and magnitudes of the training galaxies are not known, so fails_training_cuts is blank."
        if card.training_cells is None:
            yield "Where the training galaxies lie is not known, so in_training is blank."
        else:
            yield "Galaxies that trained the model are predicted too well; in_training is 1 or 2 there."


def plain_doi(text: str) -> str:
    """Return a DOI without its web address.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It is none.
    """
    doi = text.strip().removeprefix(_DOI_URL).removeprefix("doi:")
    if doi and not _DOI.fullmatch(doi):
        raise RecipeError("--doi", f"{text!r} is no DOI; it looks like 10.5281/zenodo.1234567")
    return doi
