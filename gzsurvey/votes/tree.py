"""Question trees: which answers exist, in what order, and who is asked what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gzsurvey.recipes.campaign import Campaign, load_campaigns


@dataclass(frozen=True)
class Question:
    """One question put to the volunteers of one campaign."""

    label: str
    """As the campaign writes it, without suffix: ``bulge-size``."""
    suffix: str
    """The campaign's suffix: ``-dr8``, or empty."""
    campaign: str
    answers: tuple[str, ...]
    asked_after_any: tuple[tuple[str, str], ...]
    """(question label, answer) pairs of the same campaign; empty: asked of everybody."""
    start: int
    """Column of its first answer in a vote matrix."""

    @property
    def name(self) -> str:
        """Label with suffix, as vote columns spell it: ``bulge-size-dr8``."""
        return self.label + self.suffix

    @property
    def columns(self) -> slice:
        """Columns of its answers in a vote matrix."""
        return slice(self.start, self.start + len(self.answers))

    @property
    def vote_columns(self) -> tuple[str, ...]:
        """Names of its vote columns: ``bulge-size-dr8_dominant``, ..."""
        return tuple(f"{self.name}_{answer}" for answer in self.answers)


@dataclass(frozen=True)
class DecisionTree:
    """The questions of one or several campaigns, side by side.

    Letters: Q questions, A answers.
    """

    questions: tuple[Question, ...]

    @classmethod
    def load(cls, name_or_path: str) -> DecisionTree:
        """Load a shipped campaign or union (``gz2``, ``gz_evo_v0_1``) or a YAML file."""
        return cls.of(load_campaigns(name_or_path))

    @classmethod
    def of(cls, campaigns: Iterable[Campaign]) -> DecisionTree:
        """Lay the answers of `campaigns` out in their order."""
        questions: list[Question] = []
        start = 0
        for campaign in campaigns:
            for spec in campaign.questions:
                questions.append(
                    Question(spec.question, campaign.suffix, campaign.name, spec.answers, spec.asked_after_any, start)
                )
                start += len(spec.answers)
        return cls(tuple(questions))

    @classmethod
    def from_json(cls, content: list[dict[str, Any]]) -> DecisionTree:
        """Inverse of `to_json`."""
        questions: list[Question] = []
        start = 0
        for item in content:
            links = tuple((str(q), str(a)) for q, a in item["asked_after_any"])
            answers = tuple(str(a) for a in item["answers"])
            questions.append(Question(item["question"], item["suffix"], item["campaign"], answers, links, start))
            start += len(answers)
        return cls(tuple(questions))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain lists and strings, as stored in cards, checkpoints and stores."""
        return [
            {
                "question": q.label,
                "suffix": q.suffix,
                "campaign": q.campaign,
                "answers": list(q.answers),
                "asked_after_any": [list(link) for link in q.asked_after_any],
            }
            for q in self.questions
        ]

    @property
    def n_answers(self) -> int:
        """A, the columns of a vote matrix."""
        return sum(len(q.answers) for q in self.questions)

    @property
    def campaigns(self) -> tuple[str, ...]:
        """Names of the campaigns, in the order of their answers."""
        return tuple(dict.fromkeys(q.campaign for q in self.questions))

    @cached_property
    def vote_columns(self) -> tuple[str, ...]:
        """Names of all A vote columns."""
        return tuple(column for q in self.questions for column in q.vote_columns)

    @cached_property
    def question_of_answer(self) -> np.ndarray:
        """Index of the question of each answer, int64, shape (A,)."""
        return np.repeat(np.arange(len(self.questions)), [len(q.answers) for q in self.questions])

    def of_campaign(self, campaign: str) -> tuple[Question, ...]:
        """Questions of one campaign, keeping their columns in this tree's matrix.

        Raises
        ------
        KeyError
            The tree does not hold this campaign; the message lists those it holds.
        """
        found = tuple(q for q in self.questions if q.campaign == campaign)
        if not found:
            raise KeyError(f"no campaign {campaign!r}; there are: {', '.join(self.campaigns)}")
        return found

    def parents(self, question: Question) -> tuple[tuple[Question, int], ...]:
        """Questions and answer columns after which `question` is asked."""
        siblings = {q.label: q for q in self.questions if q.campaign == question.campaign}
        return tuple(
            (siblings[label], siblings[label].start + siblings[label].answers.index(answer))
            for label, answer in question.asked_after_any
            if label in siblings
        )
