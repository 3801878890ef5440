"""VOTable metadata of a table, without its data: what makes a FITS file "fits-plus"."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.parameters import Parameter

_DATATYPES = {"L": "boolean", "I": "short", "J": "int", "K": "long", "E": "float", "D": "double", "A": "char"}
_FRAME = "ICRS"


def dataless_votable(name: str, columns: Sequence[Column], n_rows: int, parameters: Sequence[Parameter]) -> bytes:
    """Return a VOTable document with fields and parameters, and no data.

    Parameters
    ----------
    name : str
        Of the table.
    columns : sequence of Column
        One FIELD each, in this order.
    n_rows : int
        Rows of the table it describes.
    parameters : sequence of Parameter
        One PARAM each.

    Returns
    -------
    bytes
        ASCII; other characters are character references.
    """
    lines = [
        "<?xml version='1.0' encoding='UTF-8'?>",
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        "<RESOURCE>",
        f'<COOSYS ID="{_FRAME}" system="{_FRAME}"/>',
        f'<TABLE name={quoteattr(name)} nrows="{n_rows}">',
        *(_param(parameter) for parameter in parameters),
        *(_field(column) for column in columns),
        "</TABLE>",
        "</RESOURCE>",
        "</VOTABLE>\n",
    ]
    return "\n".join(lines).encode("ascii", "xmlcharrefreplace")


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
