"""The reference page of all catalogue columns: ``python -m gzsurvey.outputs.reference``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column
from gzsurvey.status import DESCRIPTIONS

_TYPES = {
    "L": "logical", "I": "16-bit integer", "J": "32-bit integer", "K": "64-bit integer", "E": "float", "D": "double",
    "A": "text",
}  # fmt: skip
_WORDS = {"question": "QUESTION", "answer": "ANSWER", "task": "TASK", "class": "CLASS", "layer": "LAYER",
          "label": "original label", "campaign": "campaign"}  # fmt: skip


def columns_page() -> str:
    """Return ``docs/reference/columns.md``."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Catalogue columns"
    yield ""
    yield "<!-- Written by `python -m gzsurvey.outputs.reference`; change gzsurvey/outputs/columns.py instead. -->"
    yield ""
    yield "`catalogue.fits` and `catalogue_full.fits` have one row per target, in HEALPix (NESTED, order 29) order."
    yield "Columns marked *full* stand in `catalogue_full.fits` only. Columns carried along with `--keep` follow at the"
    yield "end, with the units, UCDs and descriptions of the targets."
    yield ""
    yield "QUESTION, ANSWER, TASK and CLASS stand for labels with `-` turned into `_`, e.g. `bar_strong_fraction`. With"
    yield "several campaigns, QUESTION carries the campaign's suffix: `bar_dr8_strong_fraction`. Where a row has no"
    yield "prediction, numbers are NaN, text is blank, and integers are null (TNULL)."
    yield ""
    yield "| column | type | unit | UCD | null | meaning |"
    yield "|---|---|---|---|---|---|"
    yield from (_row(pattern.of(**_WORDS)) for pattern in c.PATTERNS)
    yield ""
    yield "## Status codes"
    yield ""
    yield "The list is closed; `missing.ecsv` uses the same codes and adds a reason."
    yield ""
    yield "| status | meaning |"
    yield "|---|---|"
    yield from (f"| {int(code)} | {text} |" for code, text in DESCRIPTIONS.items())


def _row(column: Column) -> str:
    suffixes = tuple(pattern.name.rsplit("_", 1)[1] for pattern in c.FULL_ONLY)
    flavour = " (*full*)" if column.name.startswith("QUESTION") and column.name.endswith(suffixes) else ""
    name = "id, named as in the targets" if column.name == "id" else f"`{column.name}`{flavour}"
    kind = "64-bit integer or text" if column.name == "id" else _TYPES[column.dtype]
    null = "" if column.null is None else str(column.null)
    return f"| {name} | {kind} | {column.unit} | `{column.ucd}` | {null} | {column.description} |"


if __name__ == "__main__":
    sys.stdout.write(columns_page())
