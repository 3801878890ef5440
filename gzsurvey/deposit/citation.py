"""How to cite a release: for people and GitHub in the Citation File Format, for Zenodo in JSON."""

from __future__ import annotations

import html
from typing import Any

from gzsurvey.deposit.about import About
from gzsurvey.recipes.authors import Author

KEYWORDS = ("galaxies", "morphology", "Galaxy Zoo", "catalogue")


def citation(about: About) -> dict[str, Any]:
    """Return the content of ``CITATION.cff``, version 1.2.0 of the format."""
    content = {
        "cff-version": "1.2.0",
        "message": "If you use this catalogue, please cite it and the works that its README names.",
        "type": "dataset",
        "title": about.title,
        "authors": [_cff_author(author) for author in about.authors],
        "version": about.version,
        "doi": about.doi,
        "date-released": about.date,
        "license": about.licence,
        "abstract": about.abstract,
        "keywords": list(KEYWORDS),
    }
    return {key: value for key, value in content.items() if value}


def _cff_author(author: Author) -> dict[str, str]:
    person = {"family-names": author.family, "given-names": author.given}
    about = person if author.given else {"name": author.name}
    about |= {"affiliation": author.affiliation} if author.affiliation and author.given else {}
    return about | ({"orcid": f"https://orcid.org/{author.orcid}"} if author.orcid else {})


def zenodo(about: About) -> dict[str, Any]:
    """Return the content of ``.zenodo.json``."""
    creators = [author.model_dump() for author in about.authors]
    paragraphs = (about.abstract, *about.limits, *about.licence_notes)
    content = {
        "title": about.title,
        "upload_type": "dataset",
        "creators": [{key: value for key, value in creator.items() if value} for creator in creators],
        "description": "".join(f"<p>{html.escape(text)}</p>" for text in paragraphs),
        "access_right": "open",
        "license": about.licence.lower(),
        "version": about.version,
        "doi": about.doi,
        "publication_date": about.date,
        "keywords": list(KEYWORDS),
        "notes": " ".join(about.licence_notes),
    }
    return {key: value for key, value in content.items() if value}
