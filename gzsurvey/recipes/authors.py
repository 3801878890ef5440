"""Who made a catalogue: the AUTHORS file of a release, YAML or CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from gzsurvey.errors import RecipeError
from gzsurvey.recipes.base import Section, load, parse

_ORCID_URL = "https://orcid.org/"


class Author(Section):
    """One person, or one collaboration."""

    name: Annotated[str, Field(min_length=1)]
    """``Family, Given`` of a person; a name without a comma is a collaboration."""
    affiliation: str = ""
    """Empty: none."""
    orcid: str = ""
    """Of a person: ``0000-0002-1825-0097``, or its web address; empty: none."""

    @field_validator("name", "affiliation")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return " ".join(text.split())

    @field_validator("orcid")
    @classmethod
    def _orcid(cls, text: str) -> str:
        orcid = text.strip().removeprefix(_ORCID_URL).upper()
        if orcid and not _is_orcid(orcid):
            raise ValueError("is no ORCID (four groups of four digits, the last one a checksum)")
        return orcid

    @model_validator(mode="after")
    def _is_whole(self) -> Author:
        family, comma, given = self.name.partition(",")
        if not family.strip() or (comma and not given.strip()):
            raise ValueError("a name is 'Family, Given', or that of a collaboration without a comma")
        if self.orcid and not comma:
            raise ValueError("who has an ORCID is a person: write the name as 'Family, Given'")
        return self

    @property
    def family(self) -> str:
        """Family name of a person; the whole name of a collaboration."""
        return self.name.partition(",")[0].strip()

    @property
    def given(self) -> str:
        """Given names; empty for a collaboration."""
        return self.name.partition(",")[2].strip()


class Authors(Section):
    """All of them, in order."""

    authors: Annotated[tuple[Author, ...], Field(min_length=1)]
    """The first one stands first in every citation."""


def load_authors(path: Path) -> tuple[Author, ...]:
    """Read an AUTHORS file.

    Parameters
    ----------
    path : Path
        YAML with the key ``authors``, or CSV (``.csv``) with the columns ``name``, ``affiliation``, ``orcid``.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The file cannot be read, or a name or ORCID in it is wrong.
    """
    if path.suffix.lower() != ".csv":
        return load(path, Authors).authors
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecipeError(str(path), f"cannot be read: {error}") from None
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise RecipeError(
                str(path), f"author {number} has another number of cells than the first line; quote names"
            )
    return parse(
        {"authors": [{key.lower(): cell for key, cell in row.items()} for row in rows]}, Authors, str(path)
    ).authors


def _is_orcid(text: str) -> bool:
    """Tell whether the last character is the checksum (ISO 7064, MOD 11-2) of the 15 digits before it."""
    groups = text.split("-")
    digits = "".join(groups)
    if [len(group) for group in groups] != [4] * 4 or not (digits[:-1].isascii() and digits[:-1].isdigit()):
        return False
    total = 0
    for digit in digits[:-1]:
        total = 2 * (total + int(digit))
    return digits[-1] == "0123456789X"[(12 - total % 11) % 11]
