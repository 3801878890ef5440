"""Commands for the catalogue of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gzsurvey.cli.command import Command, Directory, ExistingFile, File, names


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.option("--cone", default=None, metavar="'RA DEC RADIUS'", help="Degrees, ICRS; the radius as 30arcsec, 0.5deg.")
@click.option("--footprint", default=None, help="A MOC file, circle(RA,DEC,RADIUS), box(...), polygon(...).")
@click.option("--where", default=None, metavar="EXPR", help="Which rows, e.g. 'status == 0 and bar_no_fraction < 0.2'.")
@click.option("--id", "ids", multiple=True, help="A target; repeatable.")
@click.option("--columns", default=None, metavar="A,B,C", help="[default: those of catalogue.fits]")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="The first N rows.")
@click.option("-o", "--output", type=File, default=None, help="FILE.fits, .csv, .ecsv, .vot or .parquet.")
def query(run_dir: Path, columns: str | None, output: Path | None, **chosen: Any) -> None:
    """Take rows out of the catalogue of RUN: by position, by id, by what their columns say.

    Example: gzsurvey query run --cone '150.1 2.2 30arcsec' --where 'status == 0' -o near.fits
    """
    from gzsurvey.catalogue import query as choose

    answer = choose(run_dir, columns=names(columns), **chosen)
    click.echo(answer.write(output) if output else answer)


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.argument("table")
@click.option("--radius", required=True, help="Such as 1arcsec.")
@click.option("--find", type=click.Choice(["nearest", "all"]), default="nearest", help="Rows for each position.")
@click.option("--columns", default=None, metavar="A,B,C", help="Of RUN. [default: those of catalogue.fits]")
@click.option("--id-column", default=None, help="Of TABLE.")
@click.option("--ra-column", default=None)
@click.option("--dec-column", default=None)
@click.option("-o", "--output", type=File, default=None, help="FILE.fits, .csv, .ecsv, .vot or .parquet.")
def crossmatch(run_dir: Path, table: str, radius: str, columns: str | None, output: Path | None, **given: Any) -> None:
    """Find the rows of RUN near the positions of TABLE.

    Example: gzsurvey crossmatch run gaia.fits --radius 1arcsec -o matched.fits
    """
    from gzsurvey.catalogue import crossmatch as match
    from gzsurvey.sky.columns import ColumnChoices

    choices = ColumnChoices(*(given[f"{name}_column"] for name in ("id", "ra", "dec")))
    found = match(run_dir, table, radius, find=given["find"], columns=names(columns), choices=choices)
    click.echo(found.write(output) if output else found)


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.option("--ids", default=None, metavar="TABLE", help="Targets to recompute. [default: random ones]")
def verify(run_dir: Path, ids: str | None) -> None:
    """Check that the products of RUN are undamaged, and belong together.

    Example: gzsurvey verify run
    """
    from gzsurvey import survey

    click.echo(survey.verify(run_dir, ids))


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN", type=Directory)
def send(run_dir: Path) -> None:
    """Load the catalogue of RUN in a running TOPCAT or Aladin.

    Example: gzsurvey send run
    """
    from gzsurvey.catalogue import send as load

    click.echo(load(run_dir))


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.argument("other")
@click.argument("out", type=Directory)
@click.option("--by", default=None, metavar="A,B", help="Columns of RUN. [default: its magnitude and size]")
@click.option("--radius", default="1arcsec", help="Farthest apart that two positions of one galaxy are.")
def compare(run_dir: Path, other: str, out: Path, by: str | None, radius: str) -> None:
    """Compare RUN with another RUN or a published table, answer by answer.

    Example: gzsurvey compare run gz_desi.parquet beside-gz-desi
    """
    from gzsurvey.comparison import compare as put_beside

    click.echo(put_beside(run_dir, other, out, names(by), radius))


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", type=Directory)
@click.argument("out", type=Directory)
def merge(runs: tuple[Path, ...], out: Path) -> None:
    """Make one RUN of several of the same model; a target in two is taken from the last named.

    Example: gzsurvey merge north south whole
    """
    from gzsurvey import survey

    click.echo(survey.merge(runs, out))


@click.command(cls=Command)
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.argument("folder", metavar="DIR", type=Directory)
@click.option("--title", required=True)
@click.option("--authors", required=True, type=ExistingFile, help="YAML or CSV: name, affiliation, orcid.")
@click.option("--doi", default="", help="Where one is reserved, e.g. 10.5281/zenodo.1234567.")
@click.option("--version", default="1", help="Of the release.")
def release(run_dir: Path, folder: Path, **about: Any) -> None:
    """Make a folder to upload: products of RUN, ReadMes, citation, credits, checksums.

    Example: gzsurvey release run gz-field-1 --title 'Galaxies of a field' --authors authors.yaml
    """
    from gzsurvey.deposit import release as make

    click.echo(make(run_dir, folder, **about))


COMMANDS = (query, crossmatch, send, compare, verify, merge, release)
"""All of them, for the command line."""
