"""What is counted over all rows of a catalogue, in one pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gzsurvey.outputs import columns as c
from gzsurvey.report.survey_view import SurveyView
from gzsurvey.status import DESCRIPTIONS, Status

_FAR = 0.99
"""Of `ood_score`."""


@dataclass
class Tally:
    """Targets of a run, counted."""

    targets: int
    statuses: Counter[int] = field(default_factory=Counter)
    leading: dict[str, Counter[str]] = field(default_factory=dict)
    """Galaxies by leading answer, by question, of those that are asked."""
    training: Counter[int] = field(default_factory=Counter)
    """By `in_training`."""
    outside_cuts: int = 0
    """Predictions outside the size or magnitude range of the training galaxies."""
    far: int = 0
    """Predictions further from the training galaxies than 99 % of held-out ones."""

    @property
    def predicted(self) -> int:
        """Targets with a prediction."""
        return self.statuses[Status.PREDICTED]

    def status_rows(self) -> list[tuple[int, str, int, float]]:
        """Return code, meaning, targets and their share, for every status that occurs."""
        return [(code, DESCRIPTIONS[Status(code)], n, n / self.targets) for code, n in sorted(self.statuses.items())]

    def leading_rows(self) -> list[tuple[str, list[tuple[str, int, float]]]]:
        """Return for each question how often each answer leads."""
        return [
            (question, [(answer, n, n / max(counts.total(), 1)) for answer, n in counts.items()])
            for question, counts in self.leading.items()
        ]

    def quality_rows(self) -> list[tuple[str, int]]:
        """Return how many predictions need care."""
        return [
            ("further from the training galaxies than 99% of held-out ones", self.far),
            ("outside the size or magnitude range of the training galaxies", self.outside_cuts),
            ("at a galaxy whose votes trained the model", self.training[1]),
            ("at a galaxy that the model saw without votes", self.training[2]),
            ("unknown whether the model saw them", self.training[-1]),
        ]


def tally(view: SurveyView) -> Tally:
    """Count the targets of a run."""
    questions = {q.name: view.layout.column_name(c.LEADING, q) for q in view.layout.tree.questions}
    answers = {q.name: Counter(dict.fromkeys(q.answers, 0)) for q in view.layout.tree.questions}
    found = Tally(view.record.rows, leading=answers)
    fixed = (c.STATUS.name, c.OOD_SCORE.name, c.IN_TRAINING.name, c.FAILS_CUTS.name)
    for _, cells in view.chunks([*fixed, *questions.values()]):
        status, score, training, cuts = (cells[name] for name in fixed)
        predicted = status == Status.PREDICTED
        found.statuses.update(status.tolist())
        found.training.update(training.tolist())
        found.outside_cuts += int(((cuts == 1) & predicted).sum())
        found.far += int(((score >= _FAR) & predicted).sum())
        for question, column in questions.items():
            found.leading[question].update(cells[column][cells[column] != ""].tolist())
    return found
