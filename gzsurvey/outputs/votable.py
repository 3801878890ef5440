"""VOTables: metadata alone, which makes a FITS file "fits-plus" and a Parquet file "VOParquet", or whole tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.parameters import Parameter

_DATATYPES = {"L": "boolean", "I": "short", "J": "int", "K": "long", "E": "float", "D": "double", "A": "char"}
_FRAME = "ICRS"
_TAIL = b"</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


def dataless_votable(
    name: str, columns: Sequence[Column], n_rows: int | None, parameters: Sequence[Parameter]
) -> bytes:
    """Return a VOTable document with fields and parameters, and no data.

    Parameters
    ----------
    name : str
        Of the table.
    columns : sequence of Column
        One FIELD each, in this order.
    n_rows : int or None
        Rows of the table it describes; None: not said.
    parameters : sequence of Parameter
        One PARAM each.

    Returns
    -------
    bytes
        ASCII; other characters are character references.
    """
    return _head(name, columns, n_rows, parameters) + _TAIL


@contextmanager
def open_votable(
    path: Path, columns: Sequence[Column], n_rows: int, parameters: Sequence[Parameter] = (), name: str = "catalogue"
) -> Iterator[VOTableWriter]:
    """Write a VOTable with its data, row by row; like `gzsurvey.outputs.fits.open_table`."""
    with written_aside(path) as aside, aside.open("wb") as file:
        file.write(_head(name, columns, n_rows, parameters) + b"<DATA>\n<TABLEDATA>\n")
        yield VOTableWriter(file, columns)
        file.write(b"</TABLEDATA>\n</DATA>\n" + _TAIL)


class VOTableWriter:
    """Writes rows to an open VOTable; see `open_votable`."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        self._file, self._columns = file, tuple(columns)

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write rows: arrays of shape (N,) by column name. NaN, blank and null become empty cells."""
        cells = [_cells(column, rows[column.name]) for column in self._columns]
        lines = (f"<TR><TD>{'</TD><TD>'.join(row)}</TD></TR>\n" for row in zip(*cells, strict=True))
        self._file.write("".join(lines).encode("ascii", "xmlcharrefreplace"))


def _cells(column: Column, values: NDArray[Any]) -> list[str]:
    text = np.asarray(values).astype(str)
    if column.dtype == "A":
        return [escape(value) for value in text.tolist()]
    return [str(value) for value in np.where(column.is_null(values), "", text).tolist()]


def _head(name: str, columns: Sequence[Column], n_rows: int | None, parameters: Sequence[Parameter]) -> bytes:
    count = "" if n_rows is None else f' nrows="{n_rows}"'
    lines = [
        "<?xml version='1.0' encoding='UTF-8'?>",
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        "<RESOURCE>",
        f'<COOSYS ID="{_FRAME}" system="{_FRAME}"/>',
        f"<TABLE name={quoteattr(name)}{count}>",
        *(_param(parameter) for parameter in parameters),
        *(_field(column) for column in columns),
    ]
    return ("\n".join(lines) + "\n").encode("ascii", "xmlcharrefreplace")


def _field(column: Column) -> str:
    attributes = {"name": column.name, "datatype": _DATATYPES[column.dtype]}
    if column.dtype == "A":
        attributes["arraysize"] = str(column.width)
    attributes |= {"unit": column.unit, "ucd": column.ucd}
    if column.ucd.startswith("pos.eq."):
        attributes["ref"] = _FRAME
    inner = "" if column.null is None else f'<VALUES null="{column.null}"/>'
    return _element("FIELD", attributes, column.description, inner)


def _param(parameter: Parameter) -> str:
    value = parameter.value
    attributes = {"name": parameter.keyword}
    if isinstance(value, bool):
        attributes |= {"datatype": "boolean", "value": "true" if value else "false"}
    elif isinstance(value, int):
        attributes |= {"datatype": "long", "value": str(value)}
    elif isinstance(value, float):
        attributes |= {"datatype": "double", "value": repr(value)}
    else:
        attributes |= {"datatype": "char", "arraysize": "*", "value": value}
    return _element("PARAM", attributes, parameter.comment, "")


def _element(tag: str, attributes: dict[str, str], description: str, inner: str) -> str:
    written = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items() if value or key == "value")
    about = f"<DESCRIPTION>{escape(description)}</DESCRIPTION>" if description else ""
    return f"<{tag}{written}>{about}{inner}</{tag}>"
