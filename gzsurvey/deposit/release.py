"""A folder to upload: the products of a RUN, and everything that others need to use and cite them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gzsurvey.deposit.about import About, plain_doi
from gzsurvey.deposit.cds import fields_of, write_table
from gzsurvey.deposit.citation import citation, zenodo
from gzsurvey.deposit.paths import ReleasePaths
from gzsurvey.deposit.products import require_published, take_products
from gzsurvey.deposit.readmes import cds_readme, readme
from gzsurvey.errors import RecipeError
from gzsurvey.outputs.aside import folder_written_aside
from gzsurvey.outputs.opened import open_catalogue
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.provenance import sha256_of
from gzsurvey.recipes.authors import load_authors
from gzsurvey.survey.checksums import checksums_of, read_checksums, write_checksums
from gzsurvey.survey.finished import open_finished
from gzsurvey.survey.record import check_same


@dataclass(frozen=True)
class Release:
    """A folder that is ready to be uploaded."""

    folder: Path
    files: int
    bytes: int
    licence: str
    """An SPDX identifier."""
    licence_notes: tuple[str, ...]

    def __str__(self) -> str:
        said = f"{self.folder}: {self.files:,} files, {self.bytes / 1e6:,.1f} MB, {self.licence}, ready to be uploaded"
        return "\n".join([said, *self.licence_notes])


def release(
    run: Path | str, folder: Path | str, title: str, authors: Path | str, doi: str = "", version: str = "1"
) -> Release:
    """Make a folder to upload from a published RUN.

    Its products, linked or copied, with ``README.md``, the rows as text with a CDS ``ReadMe``, ``CITATION.cff``,
    ``.zenodo.json`` and ``sha256.txt``. The folder is a RUN itself, which can be verified and queried. Every file is
    compared with its checksum on record. The folder appears when it is whole; memory is that of a few thousand rows.

    Parameters
    ----------
    run : Path or str
        A published RUN without unfinished blocks.
    folder : Path or str
        Made here; repeating finishes at once.
    title : str
        Of the release.
    authors : Path or str
        YAML or CSV; see `gzsurvey.recipes.authors.load_authors`.
    doi : str
        Of the release, where one is reserved.
    version : str
        Of the release.

    Returns
    -------
    Release
        In short.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The run is not published; authors, DOI or title are wrong; the folder holds other things.
    gzsurvey.errors.RunIncomplete
        Blocks of the run are not finished.
    gzsurvey.errors.VerificationFailed
        Files of the run are missing, or not those that were published.
    gzsurvey.errors.OutputConflict
        The folder was made from another run, or with another title, authors, DOI or version.

    Examples
    --------
    >>> release("run", "gz-field-v1", "Morphologies in a field", "authors.yaml")  # doctest: +SKIP
    """
    place, source = Path(folder), open_finished(Path(run))
    about = About(
        source, _one_line("--title", title), load_authors(Path(authors)), _one_line("--version", version),
        plain_doi(doi), datetime.now(UTC).date().isoformat(),
    )  # fmt: skip
    require_published(source)
    inputs = {
        "title": about.title,
        "version": about.version,
        "doi": about.doi,
        "authors": [author.model_dump() for author in about.authors],
        "sha256_of_run": sha256_of(source.paths.checksums),
    }
    if not _is_made(place, inputs):
        with folder_written_aside(place.absolute()) as aside:
            _make(aside, about, inputs)
    files = [path for path, _ in read_checksums(RunPaths(place))]
    size = sum(path.stat().st_size for path in files)
    return Release(place, len(files) + 1, size, about.licence, about.licence_notes)


def _make(folder: Path, about: About, inputs: Mapping[str, Any]) -> None:
    sums = take_products(about.run, folder)
    paths, catalogue = ReleasePaths(folder), open_catalogue(RunPaths(folder).catalogue)
    fields = fields_of(catalogue)
    write_table(paths.cds_table, catalogue, fields)
    paths.cds_readme.write_text(cds_readme(folder, about, fields), encoding="ascii")
    paths.readme.write_text(readme(folder, about, catalogue), encoding="utf-8")
    paths.citation.write_text(_as_yaml(citation(about)), encoding="utf-8")
    paths.zenodo.write_text(_as_json(zenodo(about)), encoding="utf-8")
    paths.inputs.write_text(_as_json(inputs), encoding="utf-8")
    write_checksums(RunPaths(folder), sums | checksums_of(paths.files))


def _is_made(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Tell whether a release of these inputs is there; refuse a folder with anything else in it."""
    made = ReleasePaths(folder).inputs
    if made.is_file():
        check_same(folder, json.loads(made.read_text(encoding="utf-8")), inputs)
        return True
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(str(folder), "holds other things than a release; choose a new folder")
    return False


def _one_line(option: str, text: str) -> str:
    line = " ".join(text.split())
    if not line:
        raise RecipeError(option, "is empty")
    return line


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _as_yaml(content: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
