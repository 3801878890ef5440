"""Reading a catalogue back with everything it says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gzsurvey.errors import TableError
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.fits_reader import open_fits
from gzsurvey.outputs.opened import Catalogue, Rows, open_catalogue
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.paths import RunPaths, is_there

if TYPE_CHECKING:
    from astropy.table import Table


def read_catalogue(path: Path | str) -> Table:
    """Read a catalogue with units, descriptions, UCDs and nulls.

    Parameters
    ----------
    path : Path or str
        A RUN directory (its ``catalogue.fits``, in one file or in parts), or one of its FITS files.

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
    given = Path(path)
    if given.is_dir():
        paths = RunPaths(given)
        if not is_there(paths.catalogue):
            raise TableError(str(path), "holds no catalogue.fits; make it with 'gzsurvey publish'")
        catalogue = open_catalogue(paths.catalogue)
    else:
        catalogue = Catalogue((open_fits(given),))
    rows = catalogue.read(np.arange(len(catalogue)), list(catalogue.by_name))
    return as_table(catalogue.columns, rows, catalogue.parameters)


def as_table(columns: Sequence[Column], rows: Rows, parameters: Sequence[Parameter] = ()) -> Table:
    """Return rows, arrays of shape (N,) by column name, as an astropy Table that says what they mean."""
    from astropy.table import Column as PlainColumn
    from astropy.table import MaskedColumn, Table

    made = []
    for column in columns:
        values = rows[column.name]
        about: dict[str, Any] = {"name": column.name, "unit": column.unit or None, "description": column.description}
        about["meta"] = {"ucd": column.ucd}
        can_be_null = column.dtype in "EDA" or column.null is not None
        made.append(
            MaskedColumn(values, mask=column.is_null(values), copy=False, **about)
            if can_be_null
            else PlainColumn(values, copy=False, **about)
        )
    return Table(made, copy=False, meta={parameter.keyword: parameter.value for parameter in parameters})
