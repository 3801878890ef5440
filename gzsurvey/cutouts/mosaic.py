"""``mosaic:``: cutouts from local FITS images, tile by tile."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.headers import NANOMAGGY_ZEROPOINT, stem
from gzsurvey.cutouts.layers import Layer
from gzsurvey.cutouts.mosaic_index import MosaicIndex, Tile
from gzsurvey.cutouts.outline import Outlines
from gzsurvey.cutouts.source import MISSING_LIMIT, Cutout, Miss, Request
from gzsurvey.cutouts.tiles import OpenTile, TileCache
from gzsurvey.images.affine import Affine, affine_maps, laid
from gzsurvey.images.resample import resample_all
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

BATCH_BYTES = 16 << 20
"""Output pixels held at a time: memory that is soon used again is faster."""
CACHE_BYTES = 1 << 30
"""Decompressed images held at a time, beyond those in use."""
CHUNK = 32
"""Cutouts resampled together: few enough that their pixels stay in the processor's cache."""
SIDE_STEP = 4
"""Native parts are read in sides of whole multiples of this, so that frames of like scales go together."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One request on its way to a cutout."""

    request: Request
    candidates: tuple[tuple[int, ...], ...]
    """Per band of the source, tiles that touch the frame, the best first."""
    masks: tuple[int, ...]
    """The same, of the mask."""

    def ranked(self, rank: int, lacking: Sequence[bool]) -> tuple[int, ...]:
        """Per band, the tile of this rank, or -1 where no pixel is lacking or no tile is left."""
        return tuple(
            tiles[rank] if lacks and rank < len(tiles) else -1
            for tiles, lacks in zip(self.candidates, lacking, strict=True)
        )


class _Batch:
    """N jobs whose frames have as many pixels, and what is known of B bands."""

    def __init__(self, jobs: Sequence[_Job], bands: int) -> None:
        self.jobs = jobs
        self.size_px = size = jobs[0].request.frame.size_px
        self.ra_deg = np.array([job.request.ra_deg for job in jobs])
        self.dec_deg = np.array([job.request.dec_deg for job in jobs])
        self.scale_arcsec = np.array([job.request.frame.scale_arcsec for job in jobs])
        self.lacking = np.ones((len(jobs), bands), dtype=bool)
        """Where pixels are missing."""
        self._pixels = np.empty((len(jobs), bands, size, size), dtype=np.float32)
        self._untouched = np.ones((len(jobs), bands), dtype=bool)
        self.masked_fraction = np.full(len(jobs), np.nan)

    def maps(self, tile: OpenTile, rows: NDArray[np.intp]) -> Affine:
        """From the frames of some jobs to the pixels of a tile."""
        where = self.ra_deg[rows], self.dec_deg[rows], self.scale_arcsec[rows]
        return affine_maps(tile.wcs, *where, self.size_px)

    def add(self, rows: NDArray[np.intp], bands: Sequence[int], pixels: NDArray[np.float32]) -> None:
        """Fill what is missing of some jobs and bands; pixels (n, C, S, S)."""
        at = np.ix_(rows, np.asarray(bands))
        if not self._untouched[at].all():
            known = self.pixels()[at]
            pixels = np.where(np.isnan(known), pixels, known)
        self._pixels[at] = pixels
        with np.errstate(invalid="ignore", over="ignore"):
            self.lacking[at] = ~np.isfinite(pixels.sum(axis=(2, 3)))
        self._untouched[at] = False

    def pixels(self) -> NDArray[np.float32]:
        """Shape (N, B, S, S), NaN where nothing is known."""
        self._pixels[self._untouched] = np.nan
        self._untouched[:] = False
        return self._pixels

    def missing_fractions(self) -> NDArray[np.float64]:
        """Share of missing pixels in the worst band, shape (N,)."""
        shares = np.zeros(len(self.jobs))
        rows = np.flatnonzero(self.lacking.any(axis=1))
        shares[rows] = np.isnan(self.pixels()[rows]).mean(axis=(2, 3)).max(axis=1)
        return shares


class MosaicSource:
    """Cutouts from a mosaic of local FITS images.

    Parameters
    ----------
    index : MosaicIndex
        Built by `gzsurvey.cutouts.mosaic_index.build_index`.
    preparation : Preparation
        Its stretch sets the unit of the pixels.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.
    """

    def __init__(self, index: MosaicIndex, preparation: Preparation, missing_limit: float = MISSING_LIMIT) -> None:
        self.name = index.source
        self._index = index
        self._limit = missing_limit
        self._resampling = preparation.resampling
        self._stretch = preparation.stretch
        self._bands = tuple(dict.fromkeys(index.bands))
        planes = [self._bands.index(band) for band in index.bands]
        self._planes = slice(None) if planes == list(range(len(planes))) else planes
        self._tiles = index.tiles + index.masks
        self._image_ids = _image_ids(index.tiles)
        layers = [[n for n, tile in enumerate(index.tiles) if tile.band == band] for band in self._bands]
        layers.append(list(range(len(index.tiles), len(self._tiles))))
        self._outlines, self._layers = _places(self._tiles, layers)
        self._sampled = [Layer(name, tiles) for name, tiles in index.layers.items()]
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
        covered.sort(key=lambda job: (job.request.frame.size_px, job.candidates[0][0]))
        cache = TileCache(CACHE_BYTES, wanted=self._wanted(covered))
        try:
            sampled = self._sample([job.request for job in covered], cache)
            for jobs in self._batches(covered):
                for row, answer in self._serve(_Batch(jobs, len(self._bands)), cache):
                    yield (
                        row,
                        replace(answer, layers=sampled[row]) if isinstance(answer, Cutout) and sampled else answer,
                    )
        finally:
            self.files_opened = cache.opened
            cache.close()

    def _sample(self, requests: Sequence[Request], cache: TileCache) -> dict[int, dict[str, float]]:
        """Values of all layers at each target, by row; nothing where the source has no layers."""
        if not self._sampled:
            return {}
        ra = np.array([request.ra_deg for request in requests], dtype=np.float64)
        dec = np.array([request.dec_deg for request in requests], dtype=np.float64)
        values = {layer.name: layer.sample(ra, dec, cache).tolist() for layer in self._sampled}
        return {request.row: {name: found[n] for name, found in values.items()} for n, request in enumerate(requests)}

    def _ranked(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[Request, tuple[tuple[int, ...], ...], tuple[int, ...]]]:
        """Each request with the tiles that touch it, the best first: per band, and of the mask."""
        ra = np.array([request.ra_deg for request in requests], dtype=np.float64)
        dec = np.array([request.dec_deg for request in requests], dtype=np.float64)
        fov = np.array([request.frame.fov_arcsec for request in requests], dtype=np.float64)
        touched = [where.ranked(ra, dec, fov) for where in self._outlines]
        nothing: list[list[int]] = [[] for _ in requests]
        layers = [(tiles, nothing if place is None else touched[place]) for tiles, place in self._layers]
        for number, request in enumerate(requests):
            *bands, masks = [tuple([tiles[place] for place in where[number]]) for tiles, where in layers]
            yield request, tuple(bands), masks

    def _wanted(self, jobs: Sequence[_Job]) -> Counter[tuple[str, int]]:
        """How many jobs begin with each image."""
        firsts = Counter(tiles[0] for job in jobs for tiles in (*job.candidates, job.masks) if tiles)
        return Counter({self._tiles[number].key: count for number, count in firsts.items()})

    def _uncovered(self, candidates: Sequence[tuple[int, ...]]) -> Miss | None:
        without = [band for band, tiles in zip(self._bands, candidates, strict=True) if not tiles]
        if not without:
            return None
        if len(without) == len(self._bands):
            return Miss(Status.OUTSIDE_IMAGING, "outside the imaging", image_set=self.name)
        return Miss(Status.BAND_MISSING, f"no image of band {', '.join(without)} here", image_set=self.name)

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        for size, alike in groupby(jobs, key=lambda job: job.request.frame.size_px):
            count = max(BATCH_BYTES // (4 * len(self._bands) * size**2), 1)
            while batch := list(islice(alike, count)):
                yield batch

    def _serve(self, batch: _Batch, cache: TileCache) -> Iterator[tuple[int, Cutout | Miss]]:
        for rank in range(max(len(tiles) for job in batch.jobs for tiles in job.candidates)):
            groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
            for number in np.flatnonzero(batch.lacking.any(axis=1)).tolist():
                groups[batch.jobs[number].ranked(rank, batch.lacking[number].tolist())].append(number)
            for tiles in sorted(groups):
                self._fill(tiles, np.array(groups[tiles], dtype=np.intp), batch, cache)
        self._count_masked(batch, cache)
        known = batch.pixels(), batch.missing_fractions().tolist(), batch.masked_fraction.tolist()
        for job, pixels, missing, masked in zip(batch.jobs, *known, strict=True):
            yield job.request.row, self._answer(job, pixels, missing, masked, cache)

    def _fill(self, tiles: Sequence[int], rows: NDArray[np.intp], batch: _Batch, cache: TileCache) -> None:
        """Fill the missing pixels of some jobs from one tile per band (-1: none)."""
        grids: defaultdict[object, list[tuple[int, OpenTile]]] = defaultdict(list)
        for band, number in enumerate(tiles):
            tile = cache.get(self._tiles[number]) if number >= 0 else None
            if tile is not None:
                grids[tile.grid].append((band, tile))
        for planes in grids.values():
            self._fill_from_grid(planes, rows, batch, cache)
        cache.trim(in_use=len(self._bands))

    def _fill_from_grid(
        self, planes: Sequence[tuple[int, OpenTile]], rows: NDArray[np.intp], batch: _Batch, cache: TileCache
    ) -> None:
        """The same, from tiles that share a pixel grid."""
        bands, tiles = [band for band, _ in planes], [tile for _, tile in planes]
        units = np.array([10 ** ((NANOMAGGY_ZEROPOINT - tile.tile.zeropoint) / 2.5) for tile in tiles])
        rows, maps, parts = self._mapped(tiles[0], rows, batch)
        scale = batch.scale_arcsec[rows]
        native_pixels = maps.area_px * (self._stretch.unit_arcsec(scale) / scale) ** 2
        factors = (units * native_pixels[:, None]).astype(np.float32)[..., None, None]
        for tile in tiles:
            cache.expect(tile, parts)
        for some, side in _alike(parts):
            native = np.empty((len(some), len(tiles), side, side), dtype=np.float32)
            for plane, tile in enumerate(tiles):
                cache.flux(tile, parts[some], native[:, plane])
            brightness = resample_all(native, maps[some].shifted(*parts[some, :2].T), batch.size_px)
            brightness *= factors[some]
            batch.add(rows[some], bands, brightness)

    def _mapped(
        self, tile: OpenTile, rows: NDArray[np.intp], batch: _Batch
    ) -> tuple[NDArray[np.intp], Affine, NDArray[np.intp]]:
        """Jobs on a tile's side of the sky, their maps to its pixels and the square parts they need, shape (n, 4)."""
        maps = laid(batch.maps(tile, rows), batch.size_px, self._resampling)
        known = np.flatnonzero(maps.known)
        maps = maps[known]
        parts = maps.bounds(batch.size_px)
        sides = (parts[:, 2:] - parts[:, :2]).max(axis=1)
        sides = np.where(maps.whole, sides, -(-sides // SIDE_STEP) * SIDE_STEP)
        parts[:, 2:] = parts[:, :2] + sides[:, None]
        return rows[known], maps, parts

    def _count_masked(self, batch: _Batch, cache: TileCache) -> None:
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for row, job in enumerate(batch.jobs):
            if job.masks:
                groups[job.masks[0]].append(row)
        for number in sorted(groups):
            tile = cache.get(self._tiles[number])
            if tile is None:
                continue
            rows, maps, parts = self._mapped(tile, np.array(groups[number], dtype=np.intp), batch)
            cache.expect(tile, parts)
            for some, _ in _alike(parts):
                masked = np.stack(
                    [(cache.bits(tile, part) & self._index.mask_bits) != 0 for part in parts[some].tolist()]
                )
                maps_here = maps[some].shifted(*parts[some, :2].T)
                shares = resample_all(masked[:, None].astype(np.float32), maps_here, batch.size_px)
                batch.masked_fraction[rows[some]] = np.nan_to_num(shares).mean(axis=(1, 2, 3))
            cache.trim(in_use=1)

    def _answer(
        self, job: _Job, pixels: NDArray[np.float32], missing: float, masked: float, cache: TileCache
    ) -> Cutout | Miss:
        image_id = self._image_ids[job.candidates[0][0]]
        if missing > self._limit:
            status, reason = Status.MISSING_PIXELS, f"{missing:.0%} of the pixels have no data"
            for number in (number for tiles in job.candidates for number in tiles):
                if why := cache.damaged.get(self._tiles[number].key):
                    status, reason = Status.UNREADABLE, f"{stem(self._tiles[number].path)} cannot be read: {why}"
            return Miss(status, reason, missing, image_id, self.name)
        return Cutout(pixels[self._planes], missing, masked, image_id, self.name)


def _alike(parts: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], int]]:
    """Rows of square parts of one side, and the side; `CHUNK` at a time."""
    sides = parts[:, 2] - parts[:, 0]
    for side in np.unique(sides).tolist():
        rows = np.flatnonzero(sides == side)
        for start in range(0, len(rows), CHUNK):
            yield rows[start : start + CHUNK], side


def _places(
    tiles: Sequence[Tile], layers: Sequence[list[int]]
) -> tuple[list[Outlines], list[tuple[list[int], int | None]]]:
    """Outlines of the tiles of several layers, each once (bands often share them), and which of them each layer has."""
    corners = [tuple(tiles[number].corners_deg for number in layer) for layer in layers]
    known = {place: number for number, place in enumerate(dict.fromkeys(filter(None, corners)))}
    found = [Outlines(np.array(place, dtype=np.float64)) for place in known]
    return found, [(layer, known.get(place)) for layer, place in zip(layers, corners, strict=True)]


def _image_ids(tiles: Sequence[Tile]) -> list[str]:
    """File names without their endings, with the extension where a file holds several images."""
    extensions = Counter(tile.path for tile in tiles)
    return [stem(tile.path) + (f"[{tile.hdu}]" if extensions[tile.path] > 1 else "") for tile in tiles]
