"""``hips:``: the right pixels of a HiPS in a folder or on a server, and each tile fetched once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from cdshealpix import nested
from contracts.cutout_source import CutoutSourceContract
from loopback import Services, Sky, serving, tan_wcs
from PIL import Image
from scipy.stats import spearmanr
from skies import GALAXIES, PART, SCALE, ask, assert_same_galaxy, get, write_hips

from gzsurvey.cutouts.hips import HipsSource
from gzsurvey.cutouts.hips_sky import FRAMES, flat_places
from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=48)
QUICK = Politeness(requests_per_s=500, connections=4, tries=3, backoff_s=0.01, timeout_s=5, cache_mb=0)


@pytest.fixture(scope="module")
def running(made: tuple[Path, Sky]) -> Iterator[Services]:
    with serving(Services(made[1], made[0])) as services:
        yield services


def open_hips(address: Path | str, bands: str | None = "r,r,r", **changes: object) -> HipsSource:
    spec = SourceSpec(
        f"hips:{address}", None if bands is None else tuple(bands.split(",")),
        None if bands is None else (22.5, 22.5, 22.5), **changes,  # type: ignore[arg-type]
    )  # fmt: skip
    source = open_source(spec, PREPARATION, politeness=QUICK)
    assert isinstance(source, HipsSource)
    return source


def seen(sky: Sky, request: Request, band: str = "r") -> np.ndarray:
    """What the mosaic itself shows of a frame."""
    size = request.frame.size_px
    return sky.seen(band, tan_wcs(request.ra_deg, request.dec_deg, request.frame.scale_arcsec, size), (size, size))


class TestHipsFolder(CutoutSourceContract):
    @pytest.fixture
    def source(self, made: tuple[Path, Sky]) -> HipsSource:
        return open_hips(made[0] / "equatorial/r")

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [ask(300, 300, 0), ask(3000, 300, 1), ask(180, 300, 2), ask(300, 280, 3, 0.35)]


class TestHipsServer(TestHipsFolder):
    @pytest.fixture
    def source(self, services: Services) -> HipsSource:
        return open_hips(f"{services.url}/hips/equatorial/r")


@pytest.mark.parametrize("scale", [0.2, SCALE, 0.4])
def test_a_galaxy_is_where_and_what_the_mosaic_shows(made: tuple[Path, Sky], scale: float) -> None:
    request = ask(*GALAXIES[0], scale=scale, size=64)
    answer = get(open_hips(made[0] / "equatorial/r"), request)
    assert isinstance(answer, Cutout)
    assert answer.image_id.startswith("Norder")
    expected = seen(made[1], request)
    assert_same_galaxy(answer.pixels[0], expected)
    assert np.abs(answer.pixels[0] - expected).max() < 0.03 * expected.max()


@pytest.mark.slow
def test_galactic_frame_and_three_bands(tmp_path: Path) -> None:
    sky = write_hips(tmp_path, "galactic", "grz")
    source = open_hips(f"{tmp_path}/{{band}}", "g,r,z")
    request = ask(*GALAXIES[0], size=64)
    answer = get(source, request)
    assert isinstance(answer, Cutout)
    for plane, band in zip(answer.pixels, "grz", strict=True):
        assert_same_galaxy(plane, seen(sky, request, band))


def test_each_tile_is_fetched_once_per_block(services: Services) -> None:
    source = open_hips(f"{services.url}/hips/equatorial/r")
    services.log.clear()
    wanted = [ask(x, y, n, SCALE, 32) for n, (x, y) in enumerate((x, y) for x in range(200, 400, 20)
                                                                 for y in range(200, 400, 20))]  # fmt: skip
    with ThreadPoolExecutor(2) as fetchers:
        halves = fetchers.map(lambda part: list(source.fetch(part)), (wanted[:50], wanted[50:]))
    answers = [answer for half in halves for _, answer in half]
    assert all(isinstance(answer, Cutout) for answer in answers)
    counts = Counter(request.path for request in services.log)
    assert set(counts.values()) == {1}
    demand = source.demand(
        np.array([r.ra_deg for r in wanted]), np.array([r.dec_deg for r in wanted]), np.full(len(wanted), 48 * SCALE)
    )
    assert len(counts) <= demand.requests < 2 * len(counts)


def test_missing_tiles_are_blank_and_failing_ones_are_misses(services: Services) -> None:
    source = open_hips(f"{services.url}/hips/equatorial/r")
    nowhere = get(source, ask(5000, 300))
    assert isinstance(nowhere, Miss)
    assert (nowhere.status, nowhere.reason) == (Status.NO_IMAGE, "no tile here")
    edge = get(source, ask(PART.start, 300))
    assert isinstance(edge, Miss)
    assert edge.status == Status.MISSING_PIXELS
    services.fault = lambda number, path, query: "500"
    failed = get(source, ask(300, 300))
    assert isinstance(failed, Miss)
    assert failed.status == Status.SOURCE_FAILED
    assert "500 Internal Server Error" in failed.reason


def test_a_damaged_tile_is_a_miss(made: tuple[Path, Sky], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made[0] / "equatorial/r", copy)
    for tile in copy.glob("Norder13/*/*.fits"):
        tile.write_bytes(tile.read_bytes()[:20_000])
    answer = get(open_hips(copy), ask(300, 300))
    assert isinstance(answer, Miss)
    assert answer.status == Status.UNREADABLE
    assert "damaged FITS" in answer.reason


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("hips_order", "order"), "do not say 'hips_order'"),
        (lambda text: text.replace("equatorial", "ecliptic"), "hips_frame must be equatorial or galactic"),
        (lambda text: text.replace("= 13", "= 30"), "is no HEALPix grid"),
        (lambda text: text.replace("s_pixel_scale", "pixel_scale"), "pixel_scale_arcsec"),
        (lambda text: text.replace("= fits", "= png"), "has no FITS tiles, only png"),
    ],
)
def test_properties_that_cannot_be_used_are_explained(
    made: tuple[Path, Sky], tmp_path: Path, change: object, says: str
) -> None:
    text = (made[0] / "equatorial/r/properties").read_text()
    (tmp_path / "properties").write_text(change(text))  # type: ignore[operator]
    with pytest.raises(SourceError, match=says):
        open_hips(tmp_path)


def test_what_is_no_hips_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no file 'properties'; name the top folder of a HiPS"):
        open_hips(tmp_path)


class DrawnTiles:
    """Tiles of a HiPS whose every pixel holds the height of its centre above some plane through the sky."""

    threads = 2
    tile_px, order = 64, 12

    def __init__(self, frame: str) -> None:
        self.frame = frame

    def read(self, hips: str, path: str, decode: object) -> object:
        if path == "properties":
            said = {"hips_order": self.order, "hips_frame": self.frame, "hips_tile_width": self.tile_px}
            return "\n".join(f"{key} = {value}" for key, value in (said | {"hips_tile_format": "fits"}).items())
        number = int(path.rpartition("Npix")[2].removesuffix(".fits"))
        order = int(path.partition("/")[0].removeprefix("Norder"))
        cells = np.arange(self.tile_px**2) + number * self.tile_px**2
        lon, lat = nested.healpix_to_lonlat(cells, order + 6)
        image = np.empty(self.tile_px**2, dtype=np.float32)
        image[flat_places(self.tile_px)] = height(SkyCoord(lon, lat, frame=FRAMES[self.frame]))
        return image


def height(where: SkyCoord) -> np.ndarray:
    return 1e5 * (np.moveaxis(where.icrs.cartesian.xyz.value, 0, -1) @ (0.3, -0.5, 0.8))


@pytest.mark.parametrize("frame", ["equatorial", "galactic"])
def test_pixels_are_right_at_poles_and_where_base_cells_meet(frame: str) -> None:
    lon, lat = [0, 12, 45, 45, 90, 359.9999], [89.9999, -89.999, 41.8103, 0, 60, 10]
    places = SkyCoord(lon, lat, unit="deg", frame=FRAMES[frame])
    spec = SourceSpec("hips:drawn", ("r",) * 3, (22.5,) * 3, pixel_scale_arcsec=SCALE)
    source = HipsSource(spec, PREPARATION, DrawnTiles(frame), 0.2)
    wanted = [Request(n, str(n), p.ra.deg, p.dec.deg, Frame(32, 1.0)) for n, p in enumerate(places.icrs)]
    for row, answer in source.fetch(wanted):
        assert isinstance(answer, Cutout)
        rows, columns = np.indices((32, 32))
        wcs = tan_wcs(wanted[row].ra_deg, wanted[row].dec_deg, 1.0, 32)
        expected = height(SkyCoord(*wcs.all_pix2world(columns, rows, 0), unit="deg"))
        assert answer.missing_fraction == 0
        away = np.abs(answer.pixels[0] - expected)
        assert away.max() < 0.2
        assert np.ptp(expected) > 5


# Real tiles: DSS2, order 3, 51 arcsec per pixel.


def dss(shared_data: Path) -> Path:
    return shared_data / "hips_dss2red_sample/DSS2Red"


def test_a_hips_far_too_coarse_is_refused(shared_data: Path) -> None:
    with pytest.raises(SourceError, match=r"its finest pixels are 51\.5 arcsec wide, those of the cutouts 0\.262"):
        get(open_hips(dss(shared_data), None), ask(300, 300))


@pytest.mark.parametrize("bands", [None, "r,r,r"])
def test_real_tiles_join_without_a_seam(shared_data: Path, bands: str | None) -> None:
    """Where sibling tiles meet, the sky goes on: wrongly turned tiles would not fit."""
    # The common edge of tiles 448 and 450 of order 3.
    request = Request(0, "edge", *_edge_of(448, 450), Frame(48, 45.0))
    answer = get(open_hips(dss(shared_data), bands, pixel_scale_arcsec=1.0), request)
    assert isinstance(answer, Cutout), answer
    assert answer.missing_fraction == 0
    picture = answer.pixels.astype(float)
    plane = picture[::-1, :, 0] if bands is None else picture[0]
    smooth = Image.fromarray(plane.astype(np.float32)).resize((24, 24), Image.Resampling.BOX)
    plane = np.asarray(smooth)
    across = [np.abs(np.diff(plane, axis=axis)) for axis in (0, 1)]
    middle = np.concatenate([across[0][11:13].ravel(), across[1][:, 11:13].ravel()])
    assert middle.mean() < 2 * np.median(np.concatenate([part.ravel() for part in across]))


def test_fits_and_jpeg_tiles_show_the_same_sky(shared_data: Path) -> None:
    request = Request(0, "inside", *_edge_of(448, 448), Frame(256, 60.0))
    flux = get(open_hips(dss(shared_data), "r,r,r", pixel_scale_arcsec=1.0), request)
    picture = get(open_hips(dss(shared_data), None), request)
    assert isinstance(flux, Cutout)
    assert isinstance(picture, Cutout)
    shown = picture.pixels[::-1, :, 0]
    assert spearmanr(flux.pixels[0].ravel(), shown.ravel()).statistic > 0.9
    assert spearmanr(flux.pixels[0].ravel(), shown[::-1].ravel()).statistic < 0.7


def _edge_of(first: int, second: int) -> tuple[float, float]:
    """Middle between the centres of two tiles of order 3, ICRS degrees."""
    lon, lat = nested.healpix_to_lonlat(np.array([first, second]), 3)
    xyz = SkyCoord(lon, lat).cartesian.xyz.value.mean(axis=1)
    middle = SkyCoord(*xyz, representation_type="cartesian").spherical
    return float(middle.lon.deg), float(middle.lat.deg)
