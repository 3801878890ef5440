"""Which files a `mosaic:` source means."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may hold images of a band."""

    path: str
    band: str | None = None
    """What ``{band}`` matched."""
    left_out: str = ""
    """Why it is not even opened."""


def list_files(spec: SourceSpec, bands: Sequence[str]) -> list[Candidate]:
    """Files of a ``mosaic:`` source, by name, those left out among them.

    Raises
    ------
    gzsurvey.errors.SourceError
        Nothing is there, or a band has no file.
    """
    if "{band}" in spec.address:
        return [file for band in dict.fromkeys(bands) for file in _of_band(spec, band)]
    address = Path(spec.address).expanduser()
    if address.is_file():
        return [Candidate(str(address))]
    paths = _in_folder(address) if address.is_dir() else _matches(str(address))
    if not paths:
        raise SourceError(spec.text, f"no FITS file {'in this directory' if address.is_dir() else 'matches'}")
    asked_for = set() if address.is_dir() else _plain_words(str(address))
    return [Candidate(str(path), left_out=headers.auxiliary_kind(path.name, asked_for)) for path in paths]


def _of_band(spec: SourceSpec, band: str) -> Iterator[Candidate]:
    pattern = str(Path(spec.address).expanduser())
    paths = _matches(pattern.replace("{band}", glob.escape(band)))
    if not paths:
        there = ", ".join(_bands_there(pattern)) or "none"
        raise SourceError(
            spec.text, f"no file for band {band!r}; bands that have one: {there}; name the source's bands by --bands"
        )
    asked_for = _plain_words(pattern) | {band.lower()}
    return (Candidate(str(path), band, headers.auxiliary_kind(path.name, asked_for)) for path in paths)


def _bands_there(pattern: str) -> list[str]:
    parts = [_as_regex(part) for part in pattern.split("{band}")]
    regex = re.compile(parts[0] + r"(?P<band>[^/]+?)" + r"(?P=band)".join(parts[1:]) + r"\Z")
    matches = (regex.match(str(path)) for path in _matches(pattern.replace("{band}", "*")))
    return sorted({match["band"] for match in matches if match})


def _as_regex(part: str) -> str:
    return re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _in_folder(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if headers.is_fits(path) and path.is_file())


def _matches(pattern: str) -> list[Path]:
    texts = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(path for text in texts if (path := Path(text)).is_file())


def _plain_words(pattern: str) -> set[str]:
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+", Path(pattern).name) if word}
