"""Collections of ready images: the same images, whatever they are packed in."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from gzsurvey.cutouts.collection import decode, open_collection
from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.status import Status


def picture(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


IMAGES = {f"J{i:03d}.5-0{i}": encoded(picture(i)) for i in range(6)}


def folder(tmp_path: Path) -> Path:
    for i, (name, data) in enumerate(IMAGES.items()):
        path = tmp_path / "images" / f"part{i % 2}" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "images" / "README.md").write_text("not an image")
    (tmp_path / "images" / "part0" / "._J000.5-00.png").write_bytes(b"left by a Mac")
    return tmp_path / "images"


def tarred(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder(tmp_path), "x")
    return tmp_path / "images.tar"


def zipped(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder(tmp_path).rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path))
    return tmp_path / "images.zip"


def parquet(tmp_path: Path) -> Path:
    for part in range(2):
        names = list(IMAGES)[part::2]
        cells = [{"bytes": IMAGES[name], "path": f"{name}.png"} for name in names]
        table = pa.table({"id_str": names, "image": cells, "ra": [1.0] * len(names)})
        pq.write_table(table, tmp_path / f"train-{part}.parquet", row_group_size=2)
    return tmp_path / "train-*.parquet"


def bare_parquet(tmp_path: Path) -> Path:
    table = pa.table({"id": list(IMAGES), "image": list(IMAGES.values())})
    (tmp_path / "files").mkdir()
    pq.write_table(table, tmp_path / "files" / "all.parquet", row_group_size=1)
    return tmp_path / "files"


KINDS = {"folder": folder, "tar": tarred, "zip": zipped, "parquet": parquet, "bare": bare_parquet}


@pytest.mark.parametrize("kind", KINDS)
def test_every_packing_gives_the_same_bytes_by_id(kind: str, tmp_path: Path) -> None:
    collection = open_collection(KINDS[kind](tmp_path))
    assert len(collection) == len(IMAGES)
    for name, data in IMAGES.items():
        member = collection.find(name)
        assert member is not None
        assert member in set(collection.names())
        assert collection.read(member) == data
    assert collection.find("J999") is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_travels_between_processes_and_threads(kind: str, tmp_path: Path) -> None:
    collection = pickle.loads(pickle.dumps(open_collection(KINDS[kind](tmp_path))))
    names = [collection.find(name) for name in IMAGES] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(collection.read, names)) == list(IMAGES.values()) * 20


def test_an_image_is_found_by_file_name_in_any_folder(tmp_path: Path) -> None:
    collection = open_collection(folder(tmp_path))
    assert collection.find("any", "J000.5-00.png") == "part0/J000.5-00.png"
    assert collection.find("any", "part0/J000.5-00.png") == "part0/J000.5-00.png"
    assert collection.find("any", "J000.5-00") == "part0/J000.5-00.png"
    assert collection.find("any", "J000.5-00.jpg") is None


def test_ambiguous_stems_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    (tmp_path / "1.jpg").write_bytes(b"")
    collection = open_collection(tmp_path)
    with pytest.raises(SourceError, match="stands for both"):
        collection.find("1")
    assert collection.find("1", "a/1.png") == "a/1.png"


def test_names_that_climb_out_of_an_archive_are_only_names(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../outside.png", IMAGES["J000.5-00"])
    before = set(tmp_path.parent.rglob("*"))
    collection = open_collection(tmp_path / "evil.zip")
    name = collection.find("outside")
    assert name is not None
    assert decode(collection.read(name), name).shape == (32, 32, 3)
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_path_outside_a_folder_is_not_read(tmp_path: Path) -> None:
    inside = folder(tmp_path)
    (tmp_path / "secret.png").write_bytes(IMAGES["J000.5-00"])
    with pytest.raises(CutoutUnavailable) as caught:
        open_collection(inside).read("../secret.png")
    assert caught.value.status == Status.NO_IMAGE


@pytest.mark.parametrize("name", ["missing.zip", "none-*.parquet"])
def test_what_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        open_collection(tmp_path / name)


def test_a_compressed_tar_says_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(folder(tmp_path), "x")
    with pytest.raises(SourceError, match="repack it without compression"):
        open_collection(tmp_path / "images.tar.gz")


def test_a_truncated_tar_is_an_error_or_a_miss(tmp_path: Path) -> None:
    whole = tarred(tmp_path).read_bytes()
    last = whole.rindex(IMAGES["J005.5-05"][:16])
    (tmp_path / "cut.tar").write_bytes(whole[: last + 20])
    try:
        collection = open_collection(tmp_path / "cut.tar")
    except SourceError:
        return
    with pytest.raises(CutoutUnavailable, match="ends before"):
        [collection.read(name) for name in collection.names()]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_truncated_picture_is_unreadable_even_where_pillow_is_told_to_be_lenient(
    kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(0, 200), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    for share in (0.0, 0.01, 0.3, 0.9):
        with pytest.raises(CutoutUnavailable, match=r"x\.jpg") as caught:
            decode(data[: int(len(data) * share)], "x.jpg")
        assert caught.value.status == Status.UNREADABLE


def test_a_damaged_member_is_unreadable(tmp_path: Path) -> None:
    path = zipped(tmp_path)
    data = bytearray(path.read_bytes())
    data[200:260] = b"\0" * 60
    path.write_bytes(data)
    collection = open_collection(path)
    with pytest.raises(CutoutUnavailable):
        [decode(collection.read(name), name) for name in collection.names()]


def test_a_picture_that_unpacks_to_gigabytes_is_refused_unread() -> None:
    bomb = encoded(np.zeros((9000, 9000), dtype=np.uint8))
    assert len(bomb) < 200_000
    with pytest.raises(CutoutUnavailable, match="9000 x 9000"):
        decode(bomb, "bomb.png")


def test_every_kind_of_pixel_becomes_eight_bit_rgb() -> None:
    grey = picture(1)[..., 0]
    assert (decode(encoded(grey), "grey") == grey[..., None]).all()
    deep = grey.astype(np.uint16) * 257
    assert (decode(encoded(deep), "deep") == grey[..., None]).all()
    assert (decode(encoded(picture(2)), "rgb") == picture(2)).all()
    alpha = np.dstack([picture(3), np.full((32, 32), 255, np.uint8)])
    alpha[:16, :, 3] = 0
    shown = decode(encoded(alpha), "rgba")
    assert not shown[:16].any()
    assert (shown[16:] == alpha[16:, :, :3]).all()
    buffer = io.BytesIO()
    Image.fromarray(picture(4, 64)).convert("CMYK").save(buffer, format="JPEG", quality=95)
    assert decode(buffer.getvalue(), "cmyk").shape == (64, 64, 3)
    buffer = io.BytesIO()
    Image.fromarray(picture(4, 64)).quantize(16).save(buffer, format="GIF")
    assert decode(buffer.getvalue(), "palette").shape == (64, 64, 3)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(CutoutUnavailable, match="floating-point"):
        decode(encoded(np.zeros((8, 8), np.float32), "TIFF"), "float.tif")


def test_real_pictures_decode(shared_data: Path) -> None:
    collection = open_collection(shared_data / "gz_decals_rings" / "images.zip")
    assert len(collection) == 333
    name = collection.find("J000411.19+020924.0")
    assert name is not None
    assert decode(collection.read(name), name).shape == (424, 424, 3)
