"""``hips:``: cutouts from the tiles of a HiPS, in a folder or on a server; each tile is read once per block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.held import Held, Visits
from gzsurvey.cutouts.hips_sky import HipsProperties, Sampling, Tile, tile_path
from gzsurvey.cutouts.planes import Flux, picture_cutout
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.remote.decode import fits_image, picture
from gzsurvey.cutouts.source import Cutout, Demand, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

PROPERTIES = "properties"
PICTURES = {"jpeg": "jpg", "png": "png"}
"""Formats of ready pictures, and how their files end."""
LOCAL_THREADS = 4
TILES_BYTES = 256 << 20
"""Decoded tiles held at a time, beyond those in use."""
AHEAD_BYTES = 64 << 20
"""Cutouts whose tiles are fetched while others are made."""
PICTURE_PLANES = 3

Image = NDArray[np.float32]


class Shelf(Protocol):
    """Where the files of HiPS lie."""

    threads: int

    def read(self, hips: str, path: str, decode: Any) -> Any:
        """Return a decoded file, or None if there is none."""
        ...


class Folder:
    """HiPS on this machine's disks."""

    threads = LOCAL_THREADS

    def read(self, hips: str, path: str, decode: Any) -> Any:
        """Return a decoded file, or None if there is none."""
        try:
            body = (Path(hips).expanduser() / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CutoutUnavailable(Status.UNREADABLE, f"{path} cannot be read: {error.strerror}") from None
        try:
            return decode(body)
        except UnfitReply as error:
            raise CutoutUnavailable(Status.UNREADABLE, f"{path} is {error}") from None


class Server:
    """HiPS on a server.

    Parameters
    ----------
    client : Client
        Of that server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.threads = client.politeness.connections

    def read(self, hips: str, path: str, decode: Any) -> Any:
        """Return a decoded file, or None where the server has none."""
        address = f"{hips.rstrip('/')}/{path}"
        try:
            key = None if path == PROPERTIES else address
            return self._client.fetch(lambda _: self._client.session.get(address), decode, key)
        except CutoutUnavailable as error:
            if error.status == Status.NO_IMAGE:
                return None
            raise CutoutUnavailable(error.status, f"{path}: {error.reason}") from None

    def demand(self, requests: int) -> Demand:
        """Return what so many tiles will cost."""
        return self._client.demand(requests)


class HipsSource:
    """Cutouts from one HiPS, or from one per band.

    Parameters
    ----------
    spec : SourceSpec
        With ``{band}`` in the address, or bands: flux from FITS tiles. Neither: pictures from JPEG or PNG tiles.
    preparation : Preparation
        The model's.
    shelf : Folder or Server
        Where the files lie.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.

    Raises
    ------
    gzsurvey.errors.SourceError
        There is no HiPS, it has no such tiles, or what its counts mean is not known.
    """

    def __init__(self, spec: SourceSpec, preparation: Preparation, shelf: Shelf, missing_limit: float) -> None:
        self.name = spec.text
        self._shelf, self._limit, self._preparation = shelf, missing_limit, preparation
        self._flux = Flux.of(spec, preparation) if spec.is_flux else None
        names = self._flux.names if self._flux is not None else ("",)
        self._hips = {name: spec.address.format(band=name) for name in names}
        self._properties = {name: self._read_properties(hips) for name, hips in self._hips.items()}
        first = next(iter(self._properties.values()))
        self._same_grid(first)
        self._extension = self._tile_extension(first)
        if self._flux is not None:
            scale = spec.counts_scale(first.original_arcsec)
            self._brightness = {name: self._flux.brightness(name, scale) for name in names}
        self._grid = first
        self._pool = ThreadPoolExecutor(shelf.threads, thread_name_prefix="tiles")
        self._tiles: Held[Image | None] = Held(self._tile_budget)
        self._visits = Visits(self._tiles.forget_failures)

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, in the order of tiles."""
        waiting: deque[tuple[Request, Sampling, list[list[Future[Image | None]]]]] = deque()
        held = 0
        with self._visits.visit():
            for request in sorted(requests, key=self._centre):
                sampling = self._sampling(request)
                waiting.append((request, sampling, self._asked(sampling)))
                held += sampling.bytes
                while held > AHEAD_BYTES:
                    held -= waiting[0][1].bytes
                    yield self._answer(*waiting.popleft())
            while waiting:
                yield self._answer(*waiting.popleft())

    def _asked(self, sampling: Sampling) -> list[list[Future[Image | None]]]:
        """Start to fetch the tiles of a cutout, band by band, unless they are here."""

        def started(hips: str, tile: Tile) -> Future[Image | None]:
            path = tile_path(tile, self._extension)
            start = partial(self._pool.submit, self._shelf.read, hips, path, self._decode)
            return self._tiles.future((hips, tile), start)

        return [[started(hips, (sampling.order, number)) for number in sampling.tiles] for hips in self._hips.values()]

    def probe(self) -> None:
        """Do nothing: opening has read ``properties``."""

    def demand(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], fov_arcsec: NDArray[np.float64]
    ) -> Demand:
        """Return one request per tile, band by band."""
        assert isinstance(self._shelf, Server)
        scales = fov_arcsec / self._preparation.image_size
        orders = self._grid.orders_for(scales, self.name)
        found: set[Tile] = set()
        reach = fov_arcsec / 7200
        for east, north in ((0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            dec = np.clip(dec_deg + north * reach, -90, 90)
            ra = ra_deg + east * reach / np.maximum(np.cos(np.radians(dec_deg)), 1e-6)
            for order in np.unique(orders):
                there = orders == order
                numbers = self._grid.tiles_at(ra[there], dec[there], int(order))
                found.update((int(order), number) for number in np.unique(numbers).tolist())
        return self._shelf.demand(len(found) * len(self._hips))

    def _centre(self, request: Request) -> tuple[int, int]:
        order = self._grid.order_for(request.frame.scale_arcsec, self.name)
        (number,) = self._grid.tiles_at(np.array([request.ra_deg]), np.array([request.dec_deg]), order)
        return order, int(number)

    @property
    def _tile_budget(self) -> int:
        planes = 1 if self._flux is not None else PICTURE_PLANES
        return max(TILES_BYTES // (4 * planes * self._grid.tile_px**2), 8 * len(self._hips))

    def _sampling(self, request: Request) -> Sampling:
        """Lay the frame on the tiles; of pictures the whole field, before the model's crop."""
        crop = 1.0 if self._flux is not None else self._preparation.crop
        size = round(request.frame.size_px / crop)
        return Sampling.of(self._grid, request, size, request.frame.fov_arcsec / crop / size, self.name)

    def _answer(
        self, request: Request, sampling: Sampling, asked: list[list[Future[Image | None]]]
    ) -> tuple[int, Cutout | Miss]:
        order, number = self._centre(request)
        image_id = tile_path((order, number), self._extension).rpartition(".")[0]
        try:
            images = [[future.result() for future in band] for band in asked]
        except CutoutUnavailable as error:
            return request.row, Miss(Status(error.status), error.reason, image_id=image_id, image_set=self.name)
        if all(image is None for band in images for image in band):
            return request.row, Miss(Status.NO_IMAGE, "no tile here", 1.0, image_id, self.name)
        if self._flux is None:
            return request.row, self._picture(sampling, images[0], image_id)
        unit = self._flux.unit_arcsec2(request.frame)
        planes = {
            name: sampling.sample(band) * np.float32(self._brightness[name] * unit)
            for name, band in zip(self._hips, images, strict=True)
        }
        return request.row, self._flux.cutout(planes, image_id, self._limit)

    def _picture(self, sampling: Sampling, images: list[Image | None], image_id: str) -> Cutout | Miss:
        planes = np.stack(
            [sampling.sample([None if image is None else image[:, plane] for image in images])
             for plane in range(PICTURE_PLANES)], axis=-1
        )  # fmt: skip
        missing = float(np.isnan(planes[:, :, 0]).mean())
        if missing > self._limit:
            reason = f"{missing:.0%} of the pixels have no data"
            return Miss(Status.MISSING_PIXELS, reason, missing, image_id, self.name)
        colours = np.nan_to_num(planes[::-1]).round().clip(0, 255).astype(np.uint8)
        return picture_cutout(colours, self.name, image_id, missing)

    def _decode(self, body: bytes) -> Image:
        """Pixels of a tile, flattened in FITS order; shape (T * T,), or (T * T, 3)."""
        side = self._grid.tile_px
        if self._flux is not None:
            pixels: Image = fits_image(body).pixels
        else:
            pixels = picture(body)[::-1].astype(np.float32)
        if pixels.shape[:2] != (side, side):
            raise UnfitReply(
                f"a tile of {pixels.shape[1]} x {pixels.shape[0]} pixels, {side} x {side} by its properties"
            )
        return pixels.reshape(side * side, -1).squeeze() if self._flux is not None else pixels.reshape(-1, 3)

    def _read_properties(self, hips: str) -> HipsProperties:
        try:
            text = self._shelf.read(hips, PROPERTIES, lambda body: body.decode("utf-8", "replace"))
        except CutoutUnavailable as error:
            raise SourceError(self.name, error.reason) from None
        if text is None:
            raise SourceError(self.name, f"{hips} has no file {PROPERTIES!r}; name the top folder of a HiPS")
        return HipsProperties.parse(text, self.name)

    def _same_grid(self, first: HipsProperties) -> None:
        for name, other in self._properties.items():
            if (other.order, other.tile_px, other.frame) != (first.order, first.tile_px, first.frame):
                raise SourceError(
                    self.name,
                    f"its bands differ in order, tile width or frame (band {name!r}: {other.order}, {other.tile_px}, "
                    f"{other.frame}; the first: {first.order}, {first.tile_px}, {first.frame})",
                )

    def _tile_extension(self, first: HipsProperties) -> str:
        has = ", ".join(first.formats)
        if self._flux is not None:
            if "fits" not in first.formats:
                raise SourceError(self.name, f"has no FITS tiles, only {has}; leave --bands away to see its pictures")
            return "fits"
        known = [extension for name, extension in PICTURES.items() if name in first.formats]
        if not known:
            raise SourceError(
                self.name, f"has no JPEG or PNG tiles, only {has}; name bands and zero points for its flux"
            )
        return known[0]
