"""The narrow waist of every source of pixels: requests in, cutouts or misses out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gzsurvey.images.frame import Frame
from gzsurvey.progress import duration
from gzsurvey.status import Status

MISSING_LIMIT = 0.2
"""Share of pixels without data, in the worst band, above which a cutout is a miss."""


@dataclass(frozen=True, slots=True)
class Request:
    """One target whose pixels are wanted."""

    row: int
    """Its place in the block; comes back with the answer."""
    target_id: str
    ra_deg: float
    """ICRS right ascension; NaN for `images:` sources without positions."""
    dec_deg: float
    frame: Frame
    image: str = ""
    """Name of its ready image, for `images:` sources; empty: the id is the file's stem."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """The pixels of one target, with what is known of their quality."""

    pixels: NDArray[np.generic]
    """Flux sources: float32, shape (C, H, W), row 0 in the south and column 0 in the
    east, nanomaggies in the unit of the model's stretch (per pixel of its reference scale,
    or of the cutout), NaN where there is no data. Ready images: uint8, shape (H, W, 3), as
    the picture shows it (row 0 on top)."""
    missing_fraction: float = 0.0
    """Share of pixels without data, in the worst band."""
    masked_fraction: float = float("nan")
    """Share of pixels under the mask bits; NaN where the source has no mask."""
    image_id: str = ""
    """Tile, brick or file at the centre."""
    image_set: str = ""
    """Name of the SOURCE that served it."""
    layers: dict[str, float] = field(default_factory=dict)
    """Sampled layers at the centre, e.g. ``psfsize_r``."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Why there are no pixels for a target."""

    status: Status
    reason: str
    missing_fraction: float = float("nan")
    """Share of pixels without data, where that is the reason."""
    image_id: str = ""
    image_set: str = ""


class CutoutSource(Protocol):
    """Anything that returns pixels for the targets of a block.

    A whole block is asked at once, so that a source can open each tile once and serve
    its targets in tile order (docs/decisions/0002-sources-serve-blocks.md).
    """

    name: str
    """The SOURCE as the user wrote it."""

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` once for each request, in any order.

        Bad pixels of one target are a `Miss`, never an exception. An exception means
        that the whole block cannot be served.
        """
        ...


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run will ask of a host."""

    host: str
    requests: int
    """Tries again not counted."""
    bytes: float
    """Of replies, by those seen so far; NaN: none was."""
    requests_per_s: float
    estimated: bool = False
    """Whether only some blocks of the run were counted."""

    @property
    def seconds(self) -> float:
        """How long it takes at least."""
        return self.requests / self.requests_per_s

    def __str__(self) -> str:
        size = "" if self.bytes != self.bytes else f" for about {self.bytes / 1e6:,.1f} MB"
        about, counted = ("about ", ", by some of the blocks") if self.estimated else ("", "")
        return (
            f"{about}{self.requests:,} requests of {self.host}{size}, at most {self.requests_per_s:g} a second: "
            f"{duration(self.seconds)} or longer{counted}"
        )


@runtime_checkable
class RemoteSource(CutoutSource, Protocol):
    """A source that asks hosts on the network."""

    def probe(self) -> None:
        """Ask for very little, at plan time.

        Raises
        ------
        gzsurvey.errors.SourceError
            The host cannot be reached, or does not know what is asked for.
        """
        ...

    def demand(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], fov_arcsec: NDArray[np.float64], /
    ) -> Demand:
        """Return what the cutouts of one block, at these positions and of these widths, shape (N,), will cost."""
        ...
