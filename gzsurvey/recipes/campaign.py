"""Campaigns as written in ``catalogs/campaigns/``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from gzsurvey.errors import RecipeError
from gzsurvey.recipes.base import Section, parse, read_yaml
from gzsurvey.resources import CAMPAIGNS, find

_LABEL = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
Link = tuple[str, str]
"""A question and one of its answers."""


class QuestionSpec(Section):
    """One question of a campaign, without the campaign's suffix."""

    question: str
    answers: Annotated[tuple[str, ...], Field(min_length=2)]
    asked_after_any: tuple[Link, ...] = ()
    """Asked of volunteers who gave any of these answers; empty: of everybody."""
    upstream_parent: Link | None = None
    """What the authors' code uses instead, where it differs. Documentation only."""

    @field_validator("question")
    @classmethod
    def _question_is_a_label(cls, value: str) -> str:
        return _label(value)

    @field_validator("answers")
    @classmethod
    def _answers_are_labels(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("answers must differ from each other")
        return tuple(_label(value) for value in values)


def _label(value: str) -> str:
    if len(value) > 40 or not _LABEL.match(value):
        raise ValueError("labels are 1 to 40 of a-z, 0-9 and single '-' between them")
    return value


class Campaign(Section):
    """One Galaxy Zoo question tree."""

    name: str
    title: str
    suffix: Annotated[str, Field(pattern=r"^(-[a-z0-9]+)?$")]
    imagery: str = ""
    catalogue_rows: int | None = None
    questions: Annotated[tuple[QuestionSpec, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _links_point_back(self) -> Campaign:
        earlier: dict[str, tuple[str, ...]] = {}
        for spec in self.questions:
            if spec.question in earlier:
                raise ValueError(f"question {spec.question!r} stands twice")
            for question, answer in spec.asked_after_any:
                if answer not in earlier.get(question, ()):
                    raise ValueError(f"{spec.question!r} is asked after {question} = {answer}, not an earlier answer")
            earlier[spec.question] = spec.answers
        return self


class CampaignUnion(Section):
    """Several campaigns trained together, e.g. GZ-Evo v0.1."""

    name: str
    title: str
    campaigns: Annotated[tuple[str, ...], Field(min_length=1)]
    without_questions: tuple[str, ...] = ()
    n_questions: int
    n_answers: int


def load_campaigns(name_or_path: str) -> tuple[Campaign, ...]:
    """Return the campaigns behind a campaign's or a union's name.

    Parameters
    ----------
    name_or_path : str
        A shipped name (``gz2``, ``gz_evo_v0_1``) or a ``.yaml`` file.

    Returns
    -------
    tuple of Campaign
        In the order of their answers in a vote matrix.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such campaign, or a file that contradicts itself.
    """
    content = read_yaml(find(CAMPAIGNS, name_or_path))
    if "campaigns" not in content:
        return (parse(content, Campaign, name_or_path),)
    union = parse(content, CampaignUnion, name_or_path)
    members = tuple(
        campaign.model_copy(
            update={"questions": tuple(q for q in campaign.questions if q.question not in union.without_questions)}
        )
        for member in union.campaigns
        for campaign in load_campaigns(member)
    )
    questions = sum(len(c.questions) for c in members)
    answers = sum(len(q.answers) for c in members for q in c.questions)
    if (questions, answers) != (union.n_questions, union.n_answers):
        raise RecipeError(name_or_path, f"has {questions} questions and {answers} answers, not the stated "
                                        f"{union.n_questions} and {union.n_answers}")  # fmt: skip
    return members
