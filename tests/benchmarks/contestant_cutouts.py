"""One way to cut galaxies out of FITS mosaics; run by the Python of an environment that has what it needs.

``python contestant_cutouts.py WAY SKY SUFFIX COUNT`` cuts the first COUNT targets of a folder made by
``bench_cutouts.py`` out of its three bands, and prints one line of JSON: seconds from targets in memory and files on
disk to pixels in memory (ways that write Zarr: on disk), processor seconds, and the largest memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

SIZE, SCALE, BANDS = 64, 0.262, "grz"
ZARR_ROWS = 200
"""Written at a time, as one chunk: 10 MB, so that the memory of the last chunk is still in the processor's cache."""
CUTANA_BANDS = ("VIS", "NIR-Y", "NIR-H")
"""It tells bands apart by Euclid's names for them in the files' names."""


class Sky:
    """Files and targets."""

    def __init__(self, folder: Path, suffix: str, count: int) -> None:
        self.folder, self.suffix = folder, suffix
        targets = np.load(folder / "targets.npy")
        self.ra, self.dec, tiles = targets[np.linspace(0, len(targets) - 1, count).astype(int)].T
        self.tiles = tiles.astype(int)

    def path(self, tile: int, band: str) -> Path:
        return self.folder / f"image_{tile}_{band}{self.suffix}"

    def hdu(self) -> int:
        return int(self.suffix.endswith(".fz"))

    def corners(self, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Targets of a tile, first rows and columns of their cutouts, all at once."""
        rows = np.flatnonzero(self.tiles == tile)
        wcs = WCS(fits.getheader(self.path(tile, BANDS[0]), self.hdu()))
        column, row = wcs.all_world2pix(self.ra[rows], self.dec[rows], 0)
        return rows, np.round(row).astype(int) - SIZE // 2, np.round(column).astype(int) - SIZE // 2


def gzsurvey_answers(sky: Sky, resampling: str, scale: float) -> Iterator[tuple[int, np.ndarray]]:
    from gzsurvey.cutouts.open import check_source, open_source
    from gzsurvey.cutouts.source import Cutout, Request
    from gzsurvey.cutouts.spec import SourceSpec
    from gzsurvey.images.frame import Frame
    from gzsurvey.recipes.preparation import Preparation
    from gzsurvey.survey.sources import answers

    spec = SourceSpec.parse(f"mosaic:{sky.folder}/image_*_{{band}}{sky.suffix}", ",".join(BANDS))
    preparation = Preparation(image_size=SIZE, resampling=resampling)
    index = check_source(spec, preparation, sky.folder / "index")
    source = open_source(spec, preparation, index, missing_limit=1.0)
    where = zip(sky.ra.tolist(), sky.dec.tolist(), strict=True)
    requests = [Request(row, str(row), ra, dec, Frame(SIZE, scale)) for row, (ra, dec) in enumerate(where)]
    for row, answer in answers([source], requests, missing_limit=1.0):
        assert isinstance(answer, Cutout)
        yield row, answer.pixels


def native(sky: Sky) -> int:
    return sum(1 for _ in gzsurvey_answers(sky, "native", SCALE))


def resampled(sky: Sky) -> int:
    return sum(1 for _ in gzsurvey_answers(sky, "mean", SCALE))


def finer(sky: Sky) -> int:
    return sum(1 for _ in gzsurvey_answers(sky, "mean", 0.2))


def coarser(sky: Sky) -> int:
    return sum(1 for _ in gzsurvey_answers(sky, "mean", 0.5))


def native_zarr(sky: Sky) -> int:
    """Uncompressed, as training stores are."""
    return written(sky, None)


def native_lz4(sky: Sky) -> int:
    """With the codec that cutana takes."""
    from zarr.codecs import BloscCodec

    return written(sky, BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"))


def written(sky: Sky, compressors: Any) -> int:
    """Write native cutouts into one Zarr array."""
    import zarr

    with tempfile.TemporaryDirectory() as out:
        shape = (len(sky.ra), len(BANDS), SIZE, SIZE)
        chunks = (ZARR_ROWS, *shape[1:])
        stored = zarr.create_array(
            f"{out}/images.zarr", shape=shape, chunks=chunks, dtype="float32", compressors=compressors
        )
        held = np.empty((ZARR_ROWS, *shape[1:]), dtype=np.float32)
        for count, (_, pixels) in enumerate(gzsurvey_answers(sky, "native", SCALE), 1):
            held[(count - 1) % ZARR_ROWS] = pixels
            if count % ZARR_ROWS == 0:
                stored[count - ZARR_ROWS : count] = held
        if left := count % ZARR_ROWS:
            stored[count - left : count] = held[:left]
    return count


def cutout2d(sky: Sky) -> int:
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.nddata import Cutout2D

    made = 0
    for tile in np.unique(sky.tiles):
        rows = np.flatnonzero(sky.tiles == tile)
        for band in BANDS:
            with fits.open(sky.path(tile, band)) as file:
                image = file[sky.hdu()]
                wcs, pixels = WCS(image.header), image.data
                for row in rows:
                    where = SkyCoord(sky.ra[row], sky.dec[row], unit=u.deg)
                    made += (
                        Cutout2D(pixels, where, SIZE, wcs, mode="partial", fill_value=np.nan, copy=True).shape[0]
                        == SIZE
                    )
    return made // len(BANDS)


def place(pixels: np.ndarray, image: Any, shape: tuple[int, ...], *starts: int) -> None:
    """Put what lies on an image into one cutout."""
    inside = [slice(max(start, 0), min(start + SIZE, length)) for start, length in zip(starts, shape, strict=True)]
    there = [slice(part.start - start, part.stop - start) for part, start in zip(inside, starts, strict=True)]
    pixels[tuple(there)] = image[inside[0], inside[1]]


def slices(sky: Sky) -> int:
    import fitsio

    pixels = np.full((len(sky.ra), len(BANDS), SIZE, SIZE), np.nan, dtype=np.float32)
    for tile in np.unique(sky.tiles):
        where = list(zip(*(part.tolist() for part in sky.corners(tile)), strict=True))
        for plane, band in enumerate(BANDS):
            with fitsio.FITS(str(sky.path(tile, band))) as file:
                image = file[sky.hdu()]
                shape = tuple(image.get_dims())
                for row, top, left in where:
                    place(pixels[row, plane], image, shape, top, left)
    return len(pixels)


def whole(sky: Sky) -> int:
    import fitsio

    pixels = np.full((len(sky.ra), len(BANDS), SIZE, SIZE), np.nan, dtype=np.float32)
    for tile in np.unique(sky.tiles):
        where = list(zip(*(part.tolist() for part in sky.corners(tile)), strict=True))
        for plane, band in enumerate(BANDS):
            image = fitsio.read(str(sky.path(tile, band)), ext=sky.hdu())
            for row, top, left in where:
                place(pixels[row, plane], image, image.shape, top, left)
    return len(pixels)


def astrocut(sky: Sky) -> int:
    from astrocut import FITSCutout
    from astropy.coordinates import SkyCoord

    made = 0
    for row in range(len(sky.ra)):
        files = [str(sky.path(sky.tiles[row], band)) for band in BANDS]
        cut = FITSCutout(files, SkyCoord(sky.ra[row], sky.dec[row], unit="deg"), SIZE)
        made += len(cut.cutouts_by_file) == len(BANDS)
    return made


def cutana(sky: Sky) -> int:
    import pandas as pd
    from cutana import Orchestrator, get_default_config

    with tempfile.TemporaryDirectory() as out:
        files = [[f"{out}/{tile}_{name}{sky.suffix}" for name in CUTANA_BANDS] for tile in range(sky.tiles.max() + 1)]
        for tile, named in enumerate(files):
            for band, file in zip(BANDS, named, strict=True):
                Path(file).symlink_to(sky.path(tile, band).absolute())
        table = {"SourceID": range(len(sky.ra)), "RA": sky.ra, "Dec": sky.dec, "diameter_pixel": SIZE}
        table["fits_file_paths"] = [json.dumps(files[tile]) for tile in sky.tiles]
        pd.DataFrame(table).to_parquet(f"{out}/sources.parquet")
        config = get_default_config()
        config.source_catalogue, config.output_dir = f"{out}/sources.parquet", f"{out}/cutouts"
        config.target_resolution, config.normalisation_method, config.data_type = SIZE, "none", "float32"
        config.apply_flux_conversion, config.console_log_level = False, "ERROR"
        config.selected_extensions = [{"name": name, "ext": "PrimaryHDU"} for name in CUTANA_BANDS]
        config.channel_weights = {name: [float(name == other) for other in CUTANA_BANDS] for name in CUTANA_BANDS}
        config.loadbalancer.main_process_memory_reserve_gb = 1.0
        config.loadbalancer.skip_memory_calibration_wait = True
        result = Orchestrator(config).run()
        assert result["status"] == "completed", result
        import zarr

        return sum(zarr.open(found, mode="r")["images"].shape[0] for found in Path(out).glob("cutouts/*/images.zarr"))


WAYS = {way.__name__: way for way in (
    native, resampled, finer, coarser, native_zarr, native_lz4, cutout2d, slices, whole, astrocut, cutana
)}  # fmt: skip
NEEDS = {"slices": "fitsio", "whole": "fitsio", "astrocut": "astrocut", "cutana": "cutana", "cutout2d": "astropy"}


def processor_seconds() -> float:
    """Of this process and those it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(way: str, folder: str, suffix: str, count: int) -> None:
    """Cut once."""
    warnings.simplefilter("ignore")
    sky = Sky(Path(folder), suffix, count)
    WAYS[way](Sky(Path(folder), suffix, 8))
    before, cpu = time.perf_counter(), processor_seconds()
    made = WAYS[way](sky)
    seconds, cpu = time.perf_counter() - before, processor_seconds() - cpu
    assert made == count, f"{way} made {made} of {count} cutouts"
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    version = importlib.metadata.version(NEEDS.get(way, "gzsurvey"))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": sum(peaks), "version": version}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
