"""Reading a catalogue back with everything it says about itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gzsurvey.errors import TableError
from gzsurvey.outputs.paths import RunPaths

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.table import Table

_OF_THE_FILE = ("XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "TFIELDS", "CHECKSUM", "DATASUM", "EXTNAME")
_OF_A_COLUMN = ("TTYPE", "TFORM", "TUNIT", "TDISP", "TNULL", "TUCD", "TCOMM")


def read_catalogue(path: Path | str) -> Table:
    """Read a catalogue with units, descriptions, UCDs and nulls.

    Parameters
    ----------
    path : Path or str
        A RUN directory (its ``catalogue.fits``), or one of its FITS catalogues.

    Returns
    -------
    astropy.table.Table
        Units in ``table["ra"].unit``, descriptions in ``.description``, UCDs in
        ``.meta["ucd"]``; NaN, blank and null values are masked. The run's parameters are
        in ``table.meta``.

    Raises
    ------
    gzsurvey.errors.TableError
        There is no catalogue, or it is not one of gzsurvey's.

    Examples
    --------
    >>> table = read_catalogue("run")  # doctest: +SKIP
    >>> spirals = table[table["has_spiral_arms_yes_fraction"] > 0.8]  # doctest: +SKIP
    """
    from astropy.io import fits
    from astropy.table import Table

    file = Path(path)
    if file.is_dir():
        file = RunPaths(file).catalogue
        if not file.is_file():
            raise TableError(str(path), "holds no catalogue.fits; make it with 'gzsurvey publish'")
    try:
        with fits.open(file) as hdus:
            header = hdus[1].header.copy()
            about = _descriptions(hdus[0])
            table = Table.read(hdus[1], format="fits")
    except FileNotFoundError:
        raise TableError(str(file), "there is no such file") from None
    except (OSError, IndexError, TypeError, ValueError) as error:
        raise TableError(str(file), f"cannot be read as a FITS catalogue: {' '.join(str(error).split())}") from None
    _describe(table, header, about)
    return table


def _descriptions(primary: Any) -> dict[str, str]:
    """Return the full description of each column, from the VOTable in the primary HDU."""
    from astropy.io.votable import parse_single_table

    header = getattr(primary, "header", {})
    if not header.get("VOTMETA"):
        return {}
    content = io.BytesIO(primary.data.tobytes())
    return {field.name: field.description or "" for field in parse_single_table(content).fields}


def _describe(table: Table, header: Header, about: dict[str, str]) -> None:
    for number, name in enumerate(table.colnames, 1):
        column = table[name]
        column.description = about.get(name) or header.get(f"TCOMM{number}", "")
        column.meta["ucd"] = header.get(f"TUCD{number}", "")
    own = (*_OF_THE_FILE, *_OF_A_COLUMN)
    table.meta = {key: value for key, value in header.items() if key and not key.startswith(own)}
