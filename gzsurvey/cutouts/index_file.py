"""The file that holds a mosaic's index: found in the user's cache or built, read, and asked.

What runs need of it before they open the mosaic; `gzsurvey.cutouts.mosaic_index` says what stands in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gzsurvey.cutouts.cache import cache_folder
from gzsurvey.cutouts.files import list_files
from gzsurvey.cutouts.mosaic_index import SAME_SCALE, VERSION, MosaicIndex, build_index
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError

PLAUSIBLE_PX = (5, 5000)
"""A mosaic's pixels across most cutouts: fewer show no galaxy, and Hubble's are some 2,000."""


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
    return indexed(spec, spec.bands or (), cache_dir or cache_folder())


def indexed(spec: SourceSpec, bands: Sequence[str], folder: Path) -> Path:
    """Return the index file of a mosaic's files as they are now, built if there is none in `folder`."""
    path = folder / f"mosaic-{_fingerprint(spec, bands)}.json"
    if not path.exists():
        _write(path, build_index(spec, bands).model_dump_json().encode())
    return path


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
