"""Collections of ready images: a folder, a tar, a zip, or parquet with image bytes.

Members are read at random and by several threads at once. Their names are only ever
looked up, never used as paths to write to.
"""

from __future__ import annotations

import glob
import io
import os
import posixpath
import tarfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.status import Status

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"})
ID_COLUMNS = ("id_str", "id", "object_id")
"""Of parquet collections, best first."""
MAX_PIXELS = 64 * 1024 * 1024
"""A larger picture is refused unread: a small file can unpack to gigabytes."""
MAX_BYTES = 256 * 1024 * 1024
"""A larger member is refused unread, for the same reason."""


class ImageCollection(ABC):
    """Ready images by name.

    Parameters
    ----------
    path : Path
        What was opened; a collection is pickled as this path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Return the members' names, in the collection's order."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of one member.

        Raises
        ------
        gzsurvey.errors.CutoutUnavailable
            There is no such member, or it cannot be read.
        """

    def find(self, target_id: str, image: str = "") -> str | None:
        """Return the name of a target's image.

        Parameters
        ----------
        target_id : str
            Matched with the names' stems where `image` is empty.
        image : str
            The member's name, with or without folders and ending.

        Returns
        -------
        str or None
            None: the collection has no such image.

        Raises
        ------
        gzsurvey.errors.SourceError
            Two members share a stem or a file name, so that it names neither.
        """
        if image in self._known:
            return image
        name = PurePosixPath(image).name or target_id
        if PurePosixPath(name).suffix.lower() in EXTENSIONS:
            return self._by_file_name.get(name)
        return self._by_stem.get(name)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names())

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        return self._unique(lambda name: PurePosixPath(name).stem, "the id")

    @cached_property
    def _by_file_name(self) -> dict[str, str]:
        return self._unique(lambda name: PurePosixPath(name).name, "the file name")

    def _unique(self, key: Callable[[str], str], what: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self.names():
            other = found.setdefault(key(name), name)
            if other != name:
                problem = f"{what} {key(name)!r} stands for both {other!r} and {name!r}; name the images by a column"
                raise SourceError(str(self.path), problem)
        return found

    def __len__(self) -> int:
        return len(self.names())

    def __reduce__(self) -> tuple[Callable[[Path], ImageCollection], tuple[Path]]:
        return _reopened, (self.path,)


def open_collection(path: Path | str) -> ImageCollection:
    """Open a collection of ready images.

    Parameters
    ----------
    path : Path or str
        A directory (searched recursively), a ``.zip``, an uncompressed ``.tar``, a
        ``.parquet`` file, a directory of them, or a pattern such as ``data/*.parquet``.

    Returns
    -------
    ImageCollection
        Safe to share between threads.

    Raises
    ------
    gzsurvey.errors.SourceError
        There is no such file, or it is none of these.
    """
    path = Path(path)
    if any(letter in str(path) for letter in "*?["):
        return ParquetImages(path, _matches(path))
    if path.is_dir():
        inner = sorted(path.rglob("*.parquet"))
        folder = FolderImages(path)
        return ParquetImages(path, inner) if inner and not folder.names() else folder
    if not path.is_file():
        raise SourceError(str(path), "no such file or directory")
    if path.suffix == ".parquet":
        return ParquetImages(path, [path])
    if zipfile.is_zipfile(path):
        return ZipImages(path)
    return TarImages(path)


@lru_cache(1)
def _reopened(path: Path) -> ImageCollection:
    """Open a collection that was sent to this process, once."""
    return open_collection(path)


def _matches(pattern: Path) -> list[Path]:
    found = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207
    if not found:
        raise SourceError(str(pattern), "no file matches this pattern")
    other = [name for name in found if name.suffix != ".parquet"]
    if other:
        raise SourceError(str(pattern), f"a pattern must match parquet files only, not {other[0].name}")
    return found


def _is_image(name: str) -> bool:
    # Archives hold hundreds of thousands of names, and pathlib takes 20 microseconds for each.
    hidden = any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in name.split("/"))
    return not hidden and posixpath.splitext(name)[1].lower() in EXTENSIONS


def _unreadable(name: str, why: object) -> CutoutUnavailable:
    return CutoutUnavailable(Status.UNREADABLE, f"{name}: {why}")


class FolderImages(ImageCollection):
    """Image files below a directory; names are relative to it."""

    def names(self) -> Sequence[str]:
        """Return the members' names, sorted."""
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        found = []
        for folder, _, files in os.walk(self.path):
            start = Path(folder).relative_to(self.path)
            found += [(start / file).as_posix() for file in files]
        return tuple(sorted(name for name in found if _is_image(name)))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file."""
        if name not in self._known:
            raise CutoutUnavailable(Status.NO_IMAGE, f"{self.path} has no image {name!r}")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise _unreadable(name, error.strerror) from None


class ZipImages(ImageCollection):
    """Images in a zip archive."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(str(path), f"cannot be opened as a zip: {error}") from None
        infos = [info for info in self._archive.infolist() if not info.is_dir() and _is_image(info.filename)]
        self._infos = {info.filename: info for info in infos}

    def names(self) -> Sequence[str]:
        """Return the members' names, in the archive's order."""
        return tuple(self._infos)

    def read(self, name: str) -> bytes:
        """Return the bytes of one member."""
        info = self._infos.get(name)
        if info is None:
            raise CutoutUnavailable(Status.NO_IMAGE, f"{self.path} has no image {name!r}")
        if info.file_size > MAX_BYTES:
            raise _unreadable(name, f"would unpack to {info.file_size:,} bytes")
        try:
            return self._archive.read(info)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _unreadable(name, error) from None


class TarImages(ImageCollection):
    """Images in an uncompressed tar archive."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._members: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isreg() and not member.sparse and _is_image(member.name):
                        self._members[member.name] = (member.offset_data, member.size)
        except tarfile.TarError:
            problem = "is neither a zip nor an uncompressed tar; unpack it, or repack it without compression"
            raise SourceError(str(path), problem) from None
        self._file = path.open("rb")

    def names(self) -> Sequence[str]:
        """Return the members' names, in the archive's order."""
        return tuple(self._members)

    def read(self, name: str) -> bytes:
        """Return the bytes of one member."""
        if name not in self._members:
            raise CutoutUnavailable(Status.NO_IMAGE, f"{self.path} has no image {name!r}")
        offset, size = self._members[name]
        if size > MAX_BYTES:
            raise _unreadable(name, f"holds {size:,} bytes")
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise _unreadable(name, "the archive ends before the image does")
        return data


class ParquetImages(ImageCollection):
    """Images in the ``image`` column of parquet files, as on Hugging Face; names are ids.

    A few row groups are kept in memory, so reading in file order is fastest.
    """

    ROW_GROUPS_KEPT = 3

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        super().__init__(path)
        self.files = tuple(files)
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, file in enumerate(self.files):
            self._index(number, file)

    def _index(self, number: int, file: Path) -> None:
        try:
            opened = pq.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise SourceError(str(file), f"cannot be opened as parquet: {error}") from None
        columns = opened.schema_arrow.names
        ids = next((name for name in ID_COLUMNS if name in columns), None)
        if "image" not in columns or ids is None:
            raise SourceError(str(file), f"needs columns 'image' and one of {', '.join(ID_COLUMNS)}")
        for group in range(opened.metadata.num_row_groups):
            for row, value in enumerate(opened.read_row_group(group, columns=[ids])[ids].to_pylist()):
                if self._places.setdefault(str(value), (number, group, row)) != (number, group, row):
                    raise SourceError(str(file), f"id {value!r} stands twice")

    def names(self) -> Sequence[str]:
        """Return the ids, in file order."""
        return tuple(self._places)

    def find(self, target_id: str, image: str = "") -> str | None:
        """Return the name of a target's image: its id, or `image`."""
        name = image or target_id
        return name if name in self._places else None

    def read(self, name: str) -> bytes:
        """Return the image bytes of one row."""
        if name not in self._places:
            raise CutoutUnavailable(Status.NO_IMAGE, f"{self.path} has no image {name!r}")
        number, group, row = self._places[name]
        value = self._group(number, group)[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise _unreadable(name, "its row holds no image bytes")
        return data

    def _group(self, number: int, group: int) -> Any:
        with self._lock:
            if (number, group) not in self._groups:
                table = pq.ParquetFile(self.files[number]).read_row_group(group, columns=["image"])
                self._groups[number, group] = table["image"]
                if len(self._groups) > self.ROW_GROUPS_KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((number, group))
            return self._groups[number, group]


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode one picture.

    Parameters
    ----------
    data : bytes
        A JPEG, PNG, TIFF, WebP, BMP or GIF file.
    name : str
        For the reason of a miss.

    Returns
    -------
    uint8, shape (h, w, 3)
        Red, green, blue; row 0 on top. Grey pictures are grey in all three, transparent
        pixels black, 16-bit ones divided by 257.

    Raises
    ------
    gzsurvey.errors.CutoutUnavailable
        Damaged, truncated, larger than `MAX_PIXELS`, or of a kind without a fixed range.
    """
    # Another library may have set it, and a half-read picture would pass for a galaxy.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _unreadable(name, f"has {picture.width} x {picture.height} pixels")
            picture.load()
            return _as_rgb(picture, name)
    except CutoutUnavailable:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = "is no image file" if isinstance(error, UnidentifiedImageError) else error
        raise _unreadable(name, reason) from None


def _as_rgb(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    mode = picture.mode
    if mode == "F":
        raise _unreadable(name, "holds floating-point pixels, whose range is not known")
    if mode.startswith("I"):
        grey = np.clip(np.asarray(picture).astype(np.int64) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return np.array(picture.convert("RGB"), dtype=np.uint8)
