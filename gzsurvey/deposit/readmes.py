"""``README.md`` for people, and ``ReadMe`` as the CDS asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gzsurvey import __version__
from gzsurvey.deposit.about import About
from gzsurvey.deposit.cds import RULE, WIDTH, Field, byte_by_byte, described, paragraph, plain_text
from gzsurvey.deposit.contents import contents
from gzsurvey.deposit.paths import ReleasePaths
from gzsurvey.outputs.opened import Catalogue, catalogue_files
from gzsurvey.outputs.paths import RunPaths

_THICK = "=" * WIDTH


def readme(folder: Path, about: About, catalogue: Catalogue) -> str:
    """Return ``README.md``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    paths = RunPaths(folder)
    return environment.get_template("README.md.j2").render(
        about=about,
        run=about.run,
        contents=contents(folder),
        columns=catalogue.columns,
        parameters=catalogue.parameters,
        tables=[path.relative_to(folder).as_posix() for path in catalogue_files(paths.catalogue)],
        hats=paths.hats.name if paths.hats.is_dir() else "",
        added=ReleasePaths(folder),
        checksums=paths.checksums.name,
        gzsurvey=__version__,
    )


def cds_readme(folder: Path, about: About, fields: Sequence[Field]) -> str:
    """Return ``ReadMe``: ASCII, no line longer than 80 characters."""
    return "\n".join(_cds_lines(folder, about, fields)) + "\n"


def _cds_lines(folder: Path, about: About, fields: Sequence[Field]) -> Iterator[str]:
    first, others = about.authors[0], len(about.authors) > 1
    signed = f"({first.family}{'+' if others else ''}, {about.date[:4]})"
    yield from paragraph(f"{about.title} {signed}", "")
    yield _THICK
    yield from paragraph(about.title, "")
    yield from paragraph("; ".join(author.name for author in about.authors))
    yield from paragraph(f"<Version {about.version}, {f'doi:{about.doi}' if about.doi else 'no DOI yet'}>")
    yield _THICK
    yield "ADC_Keywords: Galaxy catalogs ; Morphology"
    yield "Keywords: galaxies: structure - catalogs"
    yield ""
    yield "Abstract:"
    yield from paragraph(about.abstract)
    yield ""
    yield "Description:"
    for limit in (*about.limits, *about.licence_notes):
        yield from paragraph(limit)
    yield from paragraph(
        "Status of the targets: " + "; ".join(f"{code} {said}: {n:,}" for code, said, n in about.statuses)
    )
    yield from paragraph("Positions are ICRS. A blank cell has no value.")
    yield ""
    yield from _file_summary(folder, about, fields)
    yield ""
    yield from byte_by_byte(ReleasePaths(folder).cds_table.name, fields)
    yield ""
    yield "Acknowledgements:"
    for credit in about.credits:
        yield from paragraph(credit)
    yield ""
    yield _THICK
    end = plain_text(f"(End) {first.name}{f' [{first.affiliation}]' if first.affiliation else ''}")
    yield f"{end[: WIDTH - 12]:<{WIDTH - 12}}  {about.date}"


def _file_summary(folder: Path, about: About, fields: Sequence[Field]) -> Iterator[str]:
    added = ReleasePaths(folder)
    sizes = {
        added.cds_readme.name: (str(WIDTH), "."),
        added.cds_table.name: (str(fields[-1].end), str(about.run.record.rows)),
    }
    yield "File Summary:"
    yield RULE
    yield f"{'FileName':<24}{'Lrecl':>6} {'Records':>11}   Explanations"
    yield RULE
    for name, what in contents(folder):
        length, records = sizes.get(name, (".", "."))
        yield from described(f"{name:<24}{length:>6} {records:>11}  ", what, 45)
    yield RULE
