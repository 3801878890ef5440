"""``images:`` serves blocks: one answer per request, misses instead of errors, few pictures in memory."""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gzsurvey.cutouts import images_source
from gzsurvey.cutouts.images_source import ImagesSource
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.images.frame import Frame
from gzsurvey.status import Status


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "stamps.zip", "w") as opened:
        for i in range(50):
            opened.writestr(f"stamps/{i}.png", png(i))
        opened.writestr("stamps/broken.png", png(0)[:500])
    return tmp_path / "stamps.zip"


def request(row: int, target_id: str, image: str = "") -> Request:
    return Request(row, target_id, float("nan"), float("nan"), Frame(64, 0.262), image)


def test_images_are_matched_by_id_and_by_name(archive: Path) -> None:
    source = ImagesSource(archive)
    answers = dict(source.fetch([request(7, "3"), request(9, "any", "4.png")]))
    for row, seed in ((7, 3), (9, 4)):
        answer = answers[row]
        assert isinstance(answer, Cutout)
        assert answer.image_set == source.name == f"images:{archive}"
        assert answer.image_id == f"stamps/{seed}.png"
        assert (answer.pixels == np.asarray(Image.open(io.BytesIO(png(seed))))).all()


def test_what_cannot_be_served_is_a_miss_with_its_status(archive: Path) -> None:
    answers = dict(ImagesSource(archive).fetch([request(0, "gone"), request(1, "broken"), request(2, "5")]))
    gone, broken = answers[0], answers[1]
    assert isinstance(gone, Miss)
    assert isinstance(broken, Miss)
    assert gone.status == Status.NO_IMAGE
    assert "gone" in gone.reason
    assert broken.status == Status.UNREADABLE
    assert isinstance(answers[2], Cutout)


def test_answers_come_once_and_in_order(archive: Path) -> None:
    requests = [request(i, str(i)) for i in range(50)]
    assert [row for row, _ in ImagesSource(archive).fetch(requests)] == list(range(50))


def test_few_pictures_are_decoded_ahead(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, lock = [0], threading.Lock()

    def counted(data: bytes, name: str) -> np.ndarray:
        with lock:
            count[0] += 1
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(images_source, "decode", counted)
    answers = ImagesSource(archive).fetch([request(i, str(i)) for i in range(50)])
    next(answers)
    assert count[0] <= images_source.AHEAD
    assert len(list(answers)) == 49


def test_a_source_can_be_opened_again_in_another_process(archive: Path) -> None:
    source = pickle.loads(pickle.dumps(ImagesSource(archive)))
    assert isinstance(dict(source.fetch([request(0, "1")]))[0], Cutout)
