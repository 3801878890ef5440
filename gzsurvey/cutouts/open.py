"""From a SOURCE as written to a source of pixels: checked once at plan time, opened by each worker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gzsurvey.cutouts.files import list_files
from gzsurvey.cutouts.hips import Folder, HipsSource, Server
from gzsurvey.cutouts.hips2fits import Hips2fitsSource
from gzsurvey.cutouts.images_source import ImagesSource
from gzsurvey.cutouts.legacy import LegacySource
from gzsurvey.cutouts.mosaic import MISSING_LIMIT, MosaicSource
from gzsurvey.cutouts.mosaic_index import SAME_SCALE, VERSION, MosaicIndex, build_index
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.remote.token import token
from gzsurvey.cutouts.sdss import SdssSource
from gzsurvey.cutouts.sia import SiaSource
from gzsurvey.cutouts.skyview import SkyviewSource
from gzsurvey.cutouts.source import CutoutSource, RemoteSource
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.cutouts.synthetic import SyntheticSource
from gzsurvey.errors import SourceError
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness

POLITE = Politeness()
PLAUSIBLE_PX = (5, 5000)
"""A mosaic's pixels across most cutouts: fewer show no galaxy, and Hubble's are some 2,000."""
REPLIES = "replies"
"""Folder of the user's cache with what services sent."""
REMOTE: dict[str, Callable[[SourceSpec, Preparation, Client, float], RemoteSource]] = {
    "hips2fits": Hips2fitsSource,
    "legacy": LegacySource,
    "sdss": SdssSource,
    "sia": SiaSource,
    "skyview": SkyviewSource,
}
"""Sources that ask services, by kind."""


def cache_folder() -> Path:
    """Where indexes of mosaics are kept between runs: ``$XDG_CACHE_HOME/gzsurvey`` or ``~/.cache/gzsurvey``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gzsurvey"


def index(
    source: str,
    bands: str | Sequence[str] = ("g", "r", "z"),
    zeropoints: str | Sequence[float | str] | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """Build the index of a mosaic ahead of a run.

    Parameters
    ----------
    source : str
        ``mosaic:DIR`` or ``mosaic:PATTERN``.
    bands : str or sequence of str
        The source's bands.
    zeropoints : str or sequence, optional
        As the run will give them.
    cache_dir : Path, optional
        The user's cache by default.

    Returns
    -------
    Path
        The index file; a later `check_source` of the same files finds it.

    Raises
    ------
    gzsurvey.errors.SourceError
        The source can never work, or has no index.
    """
    spec = SourceSpec.parse(source, bands, zeropoints)
    if spec.kind != "mosaic":
        raise SourceError(source, "needs no index; only mosaic: sources do")
    return _indexed(spec, spec.bands or (), cache_dir or cache_folder())


def check_source(
    spec: SourceSpec, preparation: Preparation, cache_dir: Path | None = None, politeness: Politeness = POLITE
) -> Path | None:
    """Refuse a source that can never work, and index it if it is a mosaic.

    A service is asked for a few pixels.

    Parameters
    ----------
    spec : SourceSpec
        The source.
    preparation : Preparation
        The model's; its bands are used where `spec` names none.
    cache_dir : Path, optional
        Where indexes are kept; the user's cache by default.
    politeness : Politeness
        How services are asked.

    Returns
    -------
    Path or None
        The index file, to be copied into the run; None for sources without one.

    Raises
    ------
    gzsurvey.errors.SourceError
        What is wrong, and what to change.
    """
    if preparation.is_flux and not spec.gives_flux:
        raise SourceError(spec.text, "gives ready pictures, and the model takes flux; name bands, or another source")
    if spec.kind == "mosaic":
        return _indexed(spec, preparation.bands, cache_dir or cache_folder())
    source = open_source(spec, preparation, politeness=politeness)
    if spec.is_remote and isinstance(source, RemoteSource):
        source.probe()
    return None


def open_source(
    spec: SourceSpec,
    preparation: Preparation,
    index: Path | None = None,
    missing_limit: float = MISSING_LIMIT,
    politeness: Politeness = POLITE,
) -> CutoutSource:
    """Open a source in the process that reads its pixels.

    Parameters
    ----------
    spec : SourceSpec
        The source.
    preparation : Preparation
        The model's.
    index : Path, optional
        What `check_source` returned, or the run's copy of it; built anew for a mosaic if not given.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is no cutout.
    politeness : Politeness
        How services are asked.

    Raises
    ------
    gzsurvey.errors.SourceError
        The source cannot be opened.
    """
    if spec.kind == "images":
        return ImagesSource(Path(spec.address).expanduser())
    if spec.kind == "synthetic":
        return SyntheticSource(preparation)
    if spec.kind == "hips":
        shelf = Server(_client(spec, politeness)) if spec.is_remote else Folder()
        return HipsSource(spec, preparation, shelf, missing_limit)
    if spec.is_remote:
        return REMOTE[spec.kind](spec, preparation, _client(spec, politeness), missing_limit)
    content = build_index(spec, preparation.bands) if index is None else read_index(index)
    return MosaicSource(content.model_copy(update={"source": spec.text}), preparation, missing_limit)


def _client(spec: SourceSpec, politeness: Politeness) -> Client:
    if spec.requests_per_s is not None:
        politeness = politeness.model_copy(update={"requests_per_s": spec.requests_per_s})
    return Client(spec.text, spec.servers, politeness, cache_folder() / REPLIES, token())


def read_index(path: Path) -> MosaicIndex:
    """Read an index file.

    Raises
    ------
    gzsurvey.errors.SourceError
        It is missing, or none of this version.
    """
    try:
        return MosaicIndex.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise SourceError(str(path), "is no index of a mosaic that this version reads; plan the run again") from None


def pixel_scale_arcsec(index: Path) -> float:
    """Pixel scale of a mosaic, for target tables with sizes in its pixels.

    Raises
    ------
    gzsurvey.errors.SourceError
        Its images have different pixel scales.
    """
    content = read_index(index)
    scales = np.array([tile.scale_arcsec for tile in content.tiles])
    if scales.max() / scales.min() - 1 > SAME_SCALE:
        raise SourceError(
            content.source,
            f"has pixels of {scales.min():.3f} to {scales.max():.3f} arcsec, so sizes in pixels say nothing; "
            "give sizes in arcsec",
        )
    return float(np.median(scales))


def check_scale(index: Path, fov_arcsec: NDArray[np.float64]) -> None:
    """Refuse a mosaic whose pixels are of another world than its cutouts.

    Parameters
    ----------
    index : Path
        As `check_source` returned it.
    fov_arcsec : float64, shape (N,)
        Widths of some cutouts; where there are none, nothing is refused.

    Raises
    ------
    gzsurvey.errors.SourceError
        The number of its pixels across most cutouts is beyond `PLAUSIBLE_PX`.
    """
    if not len(fov_arcsec):
        return
    content, width = read_index(index), float(np.median(fov_arcsec))
    scale = float(np.median([tile.scale_arcsec for tile in content.tiles]))
    least, most = PLAUSIBLE_PX
    if not least <= width / scale <= most:
        raise SourceError(
            content.source,
            f"has pixels of {scale:.3g} arcsec, of which most cutouts (of {width:.3g} arcsec) would show "
            f"{width / scale:,.1f} across; check the WCS of its headers, and the sizes of the targets",
        )


def _indexed(spec: SourceSpec, bands: Sequence[str], folder: Path) -> Path:
    path = folder / f"mosaic-{_fingerprint(spec, bands)}.json"
    if not path.exists():
        _write(path, build_index(spec, bands).model_dump_json().encode())
    return path


def _fingerprint(spec: SourceSpec, bands: Sequence[str]) -> str:
    """Hash of what is asked for, and of all files' names, sizes and times, wherever it is asked from."""
    names = spec.bands or tuple(bands)
    maps = [text for text in (spec.mask, *(layer.files for layer in spec.layers)) if text]
    where = [str(Path(text).expanduser().absolute()) for text in (spec.address, *maps)]
    columns = [layer.name for layer in spec.layers]
    digest = hashlib.sha256(repr((VERSION, where, names, spec.zeropoints, spec.mask_bits, columns)).encode())
    files = list_files(spec, names)
    for text in maps:
        files += list_files(SourceSpec(f"mosaic:{text}"), ())
    for file in files:
        stat = Path(file.path).stat()
        digest.update(f"{Path(file.path).absolute()} {file.band} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, delete=False) as aside:
        aside.write(content)
        aside.flush()
        os.fsync(aside.fileno())
    Path(aside.name).rename(path)
