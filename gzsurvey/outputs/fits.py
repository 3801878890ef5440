"""FITS binary tables, written row by row in bounded memory, as TOPCAT and astropy like them.

The primary HDU holds the table's metadata as a VOTable without data ("fits-plus", as
STIL reads it). It is written as raw bytes, because its cards must keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import MAX_TEXT, Column
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.votable import dataless_votable

if TYPE_CHECKING:
    from astropy.io.fits import Card, Header

BLOCK = 2880
"""Bytes: FITS headers and data are padded to multiples of it."""
_ROWS = 16_384
"""Rows turned into records at once: bounds memory, and keeps them in the processor's cache."""
_EMPTY_SUM = "0" * 16


@contextmanager
def open_table(
    path: Path, columns: Sequence[Column], n_rows: int, parameters: Sequence[Parameter] = (), name: str = "catalogue"
) -> Iterator[TableWriter]:
    """Write one table; the file appears under its name only when it is whole.

    Parameters
    ----------
    path : Path
        The file; written aside, flushed to disk, then renamed.
    columns : sequence of Column
        At most 999.
    n_rows : int
        Rows that will be appended in all.
    parameters : sequence of Parameter
        Facts about the run, for the header.
    name : str
        EXTNAME, and the table's name in TOPCAT.

    Raises
    ------
    ValueError
        Fewer rows came than were announced.

    Examples
    --------
    >>> with open_table(path, columns, 2, parameters) as table:  # doctest: +SKIP
    ...     table.append({"id": ids, "ra": ra})
    """
    with written_aside(path) as aside, aside.open("wb") as file:
        table = TableWriter(file, columns, n_rows, parameters, name)
        yield table
        table.finish()


class TableWriter:
    """Writes the rows of one table to an open file; see `open_table`."""

    def __init__(
        self, file: BinaryIO, columns: Sequence[Column], n_rows: int, parameters: Sequence[Parameter], name: str
    ) -> None:
        self._file, self._columns, self._n_rows = file, tuple(columns), n_rows
        self._dtype = np.dtype([(column.name, column.numpy) for column in self._columns])
        self._header = _table_header(self._columns, n_rows, self._dtype.itemsize, parameters, name)
        self._rows = 0
        self._sum = _Checksum()
        self._start = self._file.write(_primary_hdu(dataless_votable(name, self._columns, n_rows, parameters)))
        self._file.write(_header_bytes(self._header))

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write rows.

        Parameters
        ----------
        rows : mapping of str to array, shape (N,)
            By column name; more names than columns are ignored.

        Raises
        ------
        ValueError
            More rows than announced, or a text longer than its column.
        """
        n = len(rows[self._columns[0].name])
        if self._rows + n > self._n_rows:
            raise ValueError(f"{self._rows + n} rows, but {self._n_rows} were announced")
        self._rows += n
        for start in range(0, n, _ROWS):
            self._write_records(rows, slice(start, min(start + _ROWS, n)))

    def _write_records(self, rows: Mapping[str, NDArray[Any]], part: slice) -> None:
        records = np.empty(part.stop - part.start, dtype=self._dtype)
        for column in self._columns:
            records[column.name] = encode(column, rows[column.name][part])
        content = records.view(np.uint8).data
        self._sum.add(content)
        self._file.write(content)

    def finish(self) -> None:
        """Pad the data and complete the header with its checksums."""
        if self._rows != self._n_rows:
            raise ValueError(f"{self._rows} rows, but {self._n_rows} were announced")
        self._file.write(bytes(-self._rows * self._dtype.itemsize % BLOCK))
        self._header["DATASUM"] = str(self._sum.value)
        self._header["CHECKSUM"] = _checksum_text(self._header, self._sum.value)
        self._file.seek(self._start)
        self._file.write(_header_bytes(self._header))


def encode(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Turn values into the cells of `column`.

    Parameters
    ----------
    column : Column
        Its type.
    values : array, shape (N,)
        Numbers, booleans or text.

    Returns
    -------
    array, shape (N,)
        For text: bytes, with "?" for what is not printable ASCII.

    Raises
    ------
    ValueError
        A text is longer than its column.
    """
    if column.dtype == "L":
        return np.where(np.asarray(values, dtype=bool), b"T", b"F")
    if column.dtype != "A":
        return values
    text = ascii_text(values)
    if text.dtype.itemsize > column.width and np.strings.str_len(text).max(initial=0) > column.width:
        longest = int(np.strings.str_len(text).max())
        raise ValueError(f"column {column.name!r} holds {column.width} characters, a value has {longest}")
    return text


def ascii_text(values: NDArray[Any]) -> NDArray[np.bytes_]:
    """Return text as ASCII bytes, shape (N,), "?" standing for every other character."""
    unicode = np.ascontiguousarray(values, dtype=np.str_)
    width = unicode.dtype.itemsize // 4
    codes = unicode.view(np.uint32).reshape(len(unicode), width)
    plain = codes.astype(np.uint8)
    plain[(codes > ord("~")) | ((codes < ord(" ")) & (codes != 0))] = ord("?")
    return plain.view(f"S{width}").reshape(len(unicode))


class _Checksum:
    """The ones' complement sum of FITS, of bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._total = 0
        self._rest = b""

    def add(self, content: memoryview | bytes) -> None:
        if self._rest:
            need = min(4 - len(self._rest), len(content))
            self._rest += bytes(content[:need])
            content = content[need:]
            if len(self._rest) < 4:
                return
            self._total += int.from_bytes(self._rest, "big")
        whole = len(content) // 4 * 4
        self._total += int(np.frombuffer(content[:whole], dtype=">u4").sum(dtype=np.uint64))
        self._rest = bytes(content[whole:])

    @property
    def value(self) -> int:
        return _fold(self._total + int.from_bytes(self._rest.ljust(4, b"\0"), "big"))


def _fold(total: int) -> int:
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _sum_of(content: bytes) -> int:
    checksum = _Checksum()
    checksum.add(content)
    return checksum.value


def _checksum_text(header: Header, data_sum: int) -> str:
    """Return CHECKSUM such that the whole HDU sums to minus zero."""
    header["CHECKSUM"] = _EMPTY_SUM
    total = _fold(_sum_of(_header_bytes(header)) + data_sum)
    return _encode_checksum(0xFFFFFFFF - total)


def _encode_checksum(value: int) -> str:
    """Spell 32 bits with 16 letters and digits (FITS standard 4.0, appendix J)."""
    punctuation = {*range(0x3A, 0x41), *range(0x5B, 0x61)}
    letters = [0] * 16
    for i, byte in enumerate(value.to_bytes(4, "big")):
        quarter, rest = divmod(byte, 4)
        four = [quarter + 48 + rest, quarter + 48, quarter + 48, quarter + 48]
        while any(letter in punctuation for letter in four):
            for first in (0, 2):
                if four[first] in punctuation or four[first + 1] in punctuation:
                    four[first] += 1
                    four[first + 1] -= 1
        letters[i::4] = four
    return bytes(letters[-1:] + letters[:-1]).decode("ascii")


def _header_bytes(header: Header) -> bytes:
    text: str = header.tostring()
    return text.encode("ascii")


def _primary_hdu(votable: bytes) -> bytes:
    from astropy.io.fits import Card, Header

    header = Header(
        [
            Card("SIMPLE", True, "conforms to FITS standard"),
            Card("BITPIX", 8, "character values"),
            Card("NAXIS", 1, "a text"),
            Card("NAXIS1", len(votable), "length of the VOTable"),
            Card("VOTMETA", True, "table metadata as a VOTable without data"),
            Card("EXTEND", True, "the table follows"),
        ]
    )
    data = votable + bytes(-len(votable) % BLOCK)
    header["DATASUM"] = (str(_sum_of(data)), "data unit checksum")
    header["CHECKSUM"] = (_EMPTY_SUM, "HDU checksum")
    header["CHECKSUM"] = _checksum_text(header, _sum_of(data))
    return _header_bytes(header) + data


def _table_header(
    columns: Sequence[Column], n_rows: int, row_bytes: int, parameters: Sequence[Parameter], name: str
) -> Header:
    from astropy.io.fits import Card, Header

    cards = [
        Card("XTENSION", "BINTABLE", "binary table extension"),
        Card("BITPIX", 8, "array data type"),
        Card("NAXIS", 2, "number of array dimensions"),
        Card("NAXIS1", row_bytes, "bytes in a row"),
        Card("NAXIS2", n_rows, "rows"),
        Card("PCOUNT", 0, "no heap"),
        Card("GCOUNT", 1, "one group"),
        Card("TFIELDS", len(columns), "columns"),
        *(card for number, column in enumerate(columns, 1) for card in _column_cards(number, column)),
        Card("EXTNAME", printable(name), "name of this table"),
        Card("RADESYS", "ICRS", "frame of the positions"),
        *(_parameter_card(parameter) for parameter in parameters),
        Card("DATASUM", "0".ljust(10), "data unit checksum"),
        Card("CHECKSUM", _EMPTY_SUM, "HDU checksum"),
    ]
    return Header(cards)


def _column_cards(number: int, column: Column) -> list[Card]:
    from astropy.io.fits import Card

    texts = {
        "TTYPE": column.name,
        "TFORM": column.form,
        "TUNIT": column.unit,
        "TDISP": column.display,
        "TUCD": column.ucd,
        "TCOMM": column.short_description,
    }
    cards = [Card(f"{key}{number}", printable(text)) for key, text in texts.items() if text]
    return cards if column.null is None else [*cards, Card(f"TNULL{number}", column.null)]


def _parameter_card(parameter: Parameter) -> Card:
    from astropy.io.fits import Card

    value = parameter.value
    if isinstance(value, str):
        value = printable(value)
    written = len(value.replace("'", "''")) + 2 if isinstance(value, str) else 0
    return Card(parameter.keyword, value, printable(parameter.comment, 67 - max(20, written)))


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Return text as a FITS card can hold it: printable ASCII, `limit` characters at most."""
    clean = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    while len(clean.replace("'", "''")) > max(limit, 0):
        clean = clean[:-1]
    return clean
