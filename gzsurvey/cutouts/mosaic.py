"""``mosaic:``: cutouts from local FITS images, tile by tile."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.headers import NANOMAGGY_ZEROPOINT, stem
from gzsurvey.cutouts.mosaic_index import MosaicIndex, outlines
from gzsurvey.cutouts.outline import Outlines
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.tiles import Bounds, OpenTile, TileCache
from gzsurvey.images.resample import Affine, affine_maps, resample
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

MISSING_LIMIT = 0.2
"""Share of pixels without data, in the worst band, above which a cutout is a miss."""
BATCH_BYTES = 128 << 20
"""Output pixels held at a time."""
CACHE_BYTES = 1 << 30
"""Decompressed images held at a time, beyond those in use."""
_NOTHING = np.zeros((0, 0, 0), dtype=np.float32)


@dataclass
class _Job:
    """One request on its way to a cutout."""

    request: Request
    candidates: tuple[tuple[int, ...], ...]
    """Per band of the source, tiles that touch the frame, the best first."""
    masks: tuple[int, ...]
    """The same, of the mask."""
    pixels: NDArray[np.float32] = field(default_factory=lambda: _NOTHING)
    """Shape (B, S, S), one plane per band of the source; NaN where nothing is known yet."""
    masked_fraction: float = float("nan")

    def wanting(self, rank: int) -> tuple[int, ...]:
        """Per band, the tile of this rank, or -1 where no pixel is missing or no tile is left."""
        return tuple(
            tiles[rank] if rank < len(tiles) and np.isnan(plane).any() else -1
            for tiles, plane in zip(self.candidates, self.pixels, strict=True)
        )


class MosaicSource:
    """Cutouts from a mosaic of local FITS images.

    Parameters
    ----------
    index : MosaicIndex
        Built by `gzsurvey.cutouts.mosaic_index.build_index`.
    preparation : Preparation
        Its stretch's reference scale sets the unit of the pixels.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.
    """

    def __init__(self, index: MosaicIndex, preparation: Preparation, missing_limit: float = MISSING_LIMIT) -> None:
        self.name = index.source
        self._index = index
        self._limit = missing_limit
        self._extensions = Counter(tile.path for tile in index.tiles)
        self._reference_arcsec = preparation.stretch.reference_scale_arcsec
        self._bands = tuple(dict.fromkeys(index.bands))
        self._planes = [self._bands.index(band) for band in index.bands]
        self._tiles = index.tiles + index.masks
        layers = [[n for n, tile in enumerate(index.tiles) if tile.band == band] for band in self._bands]
        layers.append(list(range(len(index.tiles), len(self._tiles))))
        self._layers = [
            (np.array(numbers, dtype=np.intp), outlines(self._tiles[n] for n in numbers) if numbers else None)
            for numbers in layers
        ]
        self.files_opened = 0
        """How often the last `fetch` opened a file."""

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, those without imaging first, then tile by tile."""
        covered: list[_Job] = []
        for request, candidates, masks in self._ranked(requests):
            miss = self._uncovered(candidates)
            if miss:
                yield request.row, miss
            else:
                covered.append(_Job(request, candidates, masks))
        covered.sort(key=lambda job: job.candidates[0][0])
        cache = TileCache(CACHE_BYTES)
        try:
            for batch in self._batches(covered):
                yield from self._serve(batch, cache)
        finally:
            self.files_opened = cache.opened
            cache.close()

    def _ranked(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[Request, tuple[tuple[int, ...], ...], tuple[int, ...]]]:
        """Each request with the tiles that touch it, the best first: per band, and of the mask."""
        ra = np.array([request.ra_deg for request in requests], dtype=np.float64)
        dec = np.array([request.dec_deg for request in requests], dtype=np.float64)
        fov = np.array([request.frame.fov_arcsec for request in requests], dtype=np.float64)
        layers = [self._touching(numbers, where, ra, dec, fov) for numbers, where in self._layers]
        for number, request in enumerate(requests):
            *bands, masks = (tuple(layer[number]) for layer in layers)
            yield request, tuple(bands), masks

    @staticmethod
    def _touching(
        numbers: NDArray[np.intp],
        where: Outlines | None,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        fov: NDArray[np.float64],
    ) -> list[list[int]]:
        """Per field of view, tiles of one layer by coverage, then by depth of the centre, then by order."""
        layer: list[list[int]] = [[] for _ in ra]
        if where is None or not len(ra):
            return layer
        fields, images = where.near(ra, dec, fov)
        share, depth = where.coverage(images, ra[fields], dec[fields], fov[fields])
        touching = np.flatnonzero(share > 0)
        keys = (images[touching], -depth[touching], -share[touching], fields[touching])
        for pair in touching[np.lexsort(keys)]:
            layer[fields[pair]].append(int(numbers[images[pair]]))
        return layer

    def _uncovered(self, candidates: Sequence[tuple[int, ...]]) -> Miss | None:
        without = [band for band, tiles in zip(self._bands, candidates, strict=True) if not tiles]
        if not without:
            return None
        if len(without) == len(self._bands):
            return Miss(Status.OUTSIDE_IMAGING, "outside the imaging", image_set=self.name)
        return Miss(Status.BAND_MISSING, f"no image of band {', '.join(without)} here", image_set=self.name)

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        batch: list[_Job] = []
        held = 0
        for job in jobs:
            size = 4 * len(self._bands) * job.request.frame.size_px**2
            if batch and held + size > BATCH_BYTES:
                yield batch
                batch, held = [], 0
            batch.append(job)
            held += size
        if batch:
            yield batch

    def _serve(self, jobs: Sequence[_Job], cache: TileCache) -> Iterator[tuple[int, Cutout | Miss]]:
        for job in jobs:
            size = job.request.frame.size_px
            job.pixels = np.full((len(self._bands), size, size), np.nan, dtype=np.float32)
        for rank in range(max(len(tiles) for job in jobs for tiles in job.candidates)):
            groups: defaultdict[tuple[int, ...], list[_Job]] = defaultdict(list)
            for job in jobs:
                groups[job.wanting(rank)].append(job)
            for tiles in sorted(groups):
                self._fill(tiles, groups[tiles], cache)
        self._count_masked(jobs, cache)
        for job in jobs:
            yield job.request.row, self._answer(job, cache)
            job.pixels = _NOTHING

    def _fill(self, tiles: Sequence[int], jobs: Sequence[_Job], cache: TileCache) -> None:
        """Fill the missing pixels of `jobs` from one tile per band (-1: none)."""
        grids: defaultdict[object, list[tuple[int, OpenTile]]] = defaultdict(list)
        for band, number in enumerate(tiles):
            tile = cache.get(self._tiles[number]) if number >= 0 else None
            if tile is not None:
                grids[tile.grid].append((band, tile))
        for planes in grids.values():
            self._fill_from_grid(planes, jobs, cache)
        cache.trim(in_use=len(self._bands))

    def _fill_from_grid(self, planes: Sequence[tuple[int, OpenTile]], jobs: Sequence[_Job], cache: TileCache) -> None:
        """The same, from tiles that share a pixel grid."""
        bands = [band for band, _ in planes]
        units = [10 ** ((NANOMAGGY_ZEROPOINT - tile.tile.zeropoint) / 2.5) for _, tile in planes]
        mapped = _mapped(planes[0][1], jobs)
        for _, tile in planes:
            cache.expect(tile, [part for _, _, part in mapped])
        for job, affine, part in mapped:
            native = np.stack([cache.flux(tile, part) for _, tile in planes])
            frame = job.request.frame
            brightness = resample(native, affine.shifted(part[0], part[1]), frame.size_px)
            per_reference = affine.area_px * (self._reference_arcsec / frame.scale_arcsec) ** 2
            brightness *= np.array(units, dtype=np.float32)[:, None, None] * np.float32(per_reference)
            known = job.pixels[bands]
            job.pixels[bands] = np.where(np.isnan(known), brightness, known)

    def _count_masked(self, jobs: Sequence[_Job], cache: TileCache) -> None:
        groups: defaultdict[int, list[_Job]] = defaultdict(list)
        for job in jobs:
            if job.masks:
                groups[job.masks[0]].append(job)
        for number in sorted(groups):
            tile = cache.get(self._tiles[number])
            if tile is None:
                continue
            mapped = _mapped(tile, groups[number])
            cache.expect(tile, [part for _, _, part in mapped])
            for job, affine, part in mapped:
                masked = (cache.bits(tile, part) & self._index.mask_bits) != 0
                shares = resample(masked[None].astype(np.float32), affine.shifted(part[0], part[1]), len(job.pixels[0]))
                job.masked_fraction = float(np.nan_to_num(shares).mean())
            cache.trim(in_use=1)

    def _answer(self, job: _Job, cache: TileCache) -> Cutout | Miss:
        missing = float(np.isnan(job.pixels).mean(axis=(1, 2)).max())
        tile = self._tiles[job.candidates[0][0]]
        image_id = stem(tile.path) + (f"[{tile.hdu}]" if self._extensions[tile.path] > 1 else "")
        if missing > self._limit:
            status, reason = Status.MISSING_PIXELS, f"{missing:.0%} of the pixels have no data"
            for number in (number for tiles in job.candidates for number in tiles):
                if why := cache.damaged.get((self._tiles[number].path, self._tiles[number].hdu)):
                    status, reason = Status.UNREADABLE, f"{stem(self._tiles[number].path)} cannot be read: {why}"
            return Miss(status, reason, missing, image_id, self.name)
        pixels = job.pixels[self._planes]
        return Cutout(pixels, missing, job.masked_fraction, image_id, self.name)


def _mapped(tile: OpenTile, jobs: Sequence[_Job]) -> list[tuple[_Job, Affine, Bounds]]:
    """Jobs with their maps to an image's pixels and the part they need, from its first row on."""
    ra = np.array([job.request.ra_deg for job in jobs])
    dec = np.array([job.request.dec_deg for job in jobs])
    frames = [job.request.frame for job in jobs]
    maps = zip(jobs, affine_maps(tile.wcs, ra, dec, frames), strict=True)
    return [(job, affine, affine.bounds(job.request.frame.size_px)) for job, affine in maps if affine is not None]
