"""A real HTTP server on this machine that speaks for survey services, and misbehaves on demand."""

from __future__ import annotations

import bz2
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import astropy.units as u
import numpy as np
import votables
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

WCS_LOCK = threading.Lock()
"""A WCS is not for several threads at once."""
Query = dict[str, str]
Fault = str
"""One of `Handler.FAULTS`; "" for none."""


@dataclass(frozen=True)
class Sky:
    """A simulated mosaic: one array per band on one pixel grid."""

    planes: dict[str, NDArray[np.float32]]
    wcs: WCS

    def seen(self, band: str, wcs: WCS, shape: tuple[int, int]) -> NDArray[np.float32]:
        """What another pixel grid shows of a band: bilinear between the mosaic's pixels, NaN outside."""
        rows, columns = np.indices(shape)
        with WCS_LOCK:
            there = self.wcs.all_world2pix(*wcs.all_pix2world(columns.ravel(), rows.ravel(), 0), 0)
        seen = map_coordinates(self.planes[band], np.stack(there[::-1]), order=1, cval=np.nan)
        return seen.reshape(shape).astype(np.float32)


@dataclass(frozen=True)
class Seen:
    """One request as the server saw it."""

    time: float
    path: str
    headers: dict[str, str]
    fault: Fault
    query: Query


@dataclass
class Services:
    """What the server knows, what it is to get wrong, and what it was asked."""

    sky: Sky
    folder: Path | None = None
    """Served as files below ``/hips/``."""
    fault: Callable[[int, str, Query], Fault] = lambda number, path, query: ""
    """By number of the request, path and query."""
    latency_s: float = 0.0
    replies: dict[str, bytes] = field(default_factory=dict)
    """Recorded bodies by path, sent instead of simulated ones."""
    rewrite: Callable[[Query], Query] = lambda query: query
    """What the server takes a query for."""
    legacy_native: float = 0.262
    archive: dict[str, tuple[str, NDArray[np.float32], WCS]] = field(default_factory=dict)
    """Band, pixels and WCS of the images that SIA, DataLink and SODA serve, by name."""
    longest_list: int = 1000
    """Rows after which SIA answers are cut."""
    token: str | None = None
    """Without it the archive answers 401."""
    url: str = ""
    log: list[Seen] = field(default_factory=list)
    open_connections: set[tuple[str, int]] = field(default_factory=set)
    """Every client address seen: one per connection."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Behave, forget what was asked, and serve only what was there at first."""
        self.log.clear()
        self.open_connections.clear()
        self.replies.clear()
        self.fault = lambda number, path, query: ""
        self.rewrite = lambda query: query
        self.token, self.longest_list = None, 1000

    @property
    def rate(self) -> float:
        """Requests a second over the whole log."""
        times = [seen.time for seen in self.log]
        return (len(times) - 1) / (max(times) - min(times))


@contextmanager
def serving(services: Services) -> Iterator[Services]:
    """Serve until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"services": services}))
    server.daemon_threads = True
    services.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        server.server_close()


def tan_wcs(ra: float, dec: float, scale_arcsec: float, size: int) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(size + 1) / 2] * 2
    wcs.wcs.cdelt = [-scale_arcsec / 3600, scale_arcsec / 3600]
    wcs.wcs.set()
    return wcs


def jpeg(colours: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def fits_bytes(pixels: NDArray[np.generic], header: fits.Header) -> bytes:
    buffer = io.BytesIO()
    fits.PrimaryHDU(pixels, header).writeto(buffer)
    return buffer.getvalue()


FIELDS = {100: slice(0, 340), 101: slice(260, 600)}
"""Fields of the one run of SDSS that is drawn, as rows of the sky: they overlap."""


def drawn_field(sky: Sky, ra: float, dec: float) -> str | None:
    """Run, rerun, camcol and field of a position."""
    with WCS_LOCK:
        column, row = sky.wcs.all_world2pix(ra, dec, 0)
    side = next(iter(sky.planes.values())).shape[0]
    if not (0 <= column < side and 0 <= row < side):
        return None
    return f"94,301,1,{100 if row < side / 2 else 101}"


def drawn_frame(sky: Sky, path: str) -> bytes | None:
    """A frame as SDSS names it."""
    found = re.fullmatch(r"/sas/dr17/eboss/photoObj/frames/301/94/1/frame-(.)-000094-1-(\d{4})\.fits\.bz2", path)
    if found is None or int(found[2]) not in FIELDS:
        return None
    rows = FIELDS[int(found[2])]
    wcs = sky.wcs.deepcopy()
    wcs.wcs.crpix -= [0, rows.start]
    header = wcs.to_header()
    header["BUNIT"] = "nanomaggy"
    return bz2.compress(fits_bytes(sky.planes[found[1]][rows], header))


class Handler(BaseHTTPRequestHandler):
    """hips2fits under ``/hips2fits``, the Legacy viewer under ``/viewer``, HiPS files under ``/hips``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    services: Services
    FAULTS = (
        "429", "503", "500", "hang", "drip", "cut", "html", "size", "corrupt", "redirect", "huge", "404", "401",
    )  # fmt: skip

    def log_message(self, *_: object) -> None:
        """Say nothing: the log is kept."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        with self.services.lock:
            number = len(self.services.log)
            fault = "" if query.pop("moved", "") else self.services.fault(number, parts.path, query)
            self.services.log.append(Seen(time.monotonic(), parts.path, dict(self.headers), fault, query))
            self.services.open_connections.add(self.client_address)
        time.sleep(self.services.latency_s)
        try:
            if fault:
                self._fault(fault, parts.path, query)
            else:
                self._answer(parts.path, query)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_POST(self) -> None:
        """Crossmatch of SDSS: the targets of an upload that lie on the sky, and the field of each."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.services.lock:
            number = len(self.services.log)
            fault = self.services.fault(number, self.path, {})
            self.services.log.append(Seen(time.monotonic(), self.path, dict(self.headers), fault, {}))
        if fault:
            self._fault(fault, self.path, {})
            return
        places = [tuple(map(float, found)) for found in re.findall(r"obj_\d+ (\S+) (\S+)", body)]
        rows = [f"{ra},{dec},{drawn_field(self.services.sky, ra, dec)}" for ra, dec in places]
        found = [row for row in rows if not row.endswith("None")]
        self._send(200, "text/plain", "\n".join(["#Table1", "ra,dec,run,rerun,camcol,field", *found]).encode())

    def _answer(self, path: str, query: Query) -> None:
        query = self.services.rewrite(query)
        if path in self.services.replies:
            self._send(200, "application/octet-stream", self.services.replies[path])
        elif path == "/hips2fits":
            self._send(*self._hips2fits(query))
        elif path.startswith("/sas/"):
            frame = drawn_frame(self.services.sky, path)
            self._not_found() if frame is None else self._send(200, "application/octet-stream", frame)
        elif path.endswith("/x_results.aspx"):
            self._send(200, "application/json", b'[{"TableName": "", "Rows": [{"name": "run"}]}]')
        elif path.startswith("/skyview/"):
            self._skyview(path.removeprefix("/skyview/"), query)
        elif path.startswith("/viewer/cutout."):
            self._send(200, "image/fits", self._legacy(query))
        elif path.startswith("/archive/"):
            self._archive(path.removeprefix("/archive/"), query)
        elif path.startswith("/hips/") and self.services.folder is not None:
            file = self.services.folder / path.removeprefix("/hips/")
            self._send(200, "application/octet-stream", file.read_bytes()) if file.is_file() else self._not_found()
        else:
            self._not_found()

    def _not_found(self) -> None:
        self._send(404, "text/html", b"<html><body>Not Found</body></html>")

    def _send(self, code: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _hips2fits(self, query: Query) -> tuple[int, str, bytes]:
        sky, size = self.services.sky, int(query["width"])
        band = query["hips"].rpartition("/")[2]
        wcs = tan_wcs(float(query["ra"]), float(query["dec"]), float(query["fov"]) * 3600 / size, size)
        if query["format"] == "fits" and band in sky.planes:
            return 200, "image/fits", fits_bytes(sky.seen(band, wcs, (size, size)), wcs.to_header())
        if query["format"] == "jpg" and band in {"color", "grey"}:
            names = sorted(sky.planes)[::-1] if band == "color" else sorted(sky.planes)[:1] * 3
            planes = np.stack([np.nan_to_num(sky.seen(name, wcs, (size, size))) for name in names], axis=-1)
            colours = np.clip(planes[::-1] * 255, 0, 255).astype(np.uint8)
            return 200, "image/jpeg", jpeg(colours)
        said = {"title": "Bad request", "description": f"No HiPS matches {query['hips']}"}
        return 400, "application/json", json.dumps(said).encode()

    def _legacy(self, query: Query) -> bytes:
        """As the Legacy viewer: larger than 3000 px is cut, what is not understood is replaced, silently."""
        sky = self.services.sky
        scale = float(query.get("pixscale", self.services.legacy_native))
        size = min(int(query.get("size", 256)), 3000)
        bands = [band for band in query.get("bands", "grz") if band in sky.planes] or ["g", "r", "z"]
        wcs = tan_wcs(float(query["ra"]), float(query["dec"]), scale, size)
        header = wcs.to_header()
        header["BANDS"] = "".join(bands)
        for number, band in enumerate(bands):
            header[f"BAND{number}"] = band
        cube = np.stack([np.nan_to_num(sky.seen(band, wcs, (size, size))) for band in bands])
        return fits_bytes(cube, header)

    def _skyview(self, what: str, query: Query) -> None:
        """A form with the surveys, a page with a link to what was asked for, and the image behind it."""
        if what == "form":
            names = "".join(f"<option>sky {band}</option>" for band in self.services.sky.planes)
            select = f'<select name="survey" id="Drawn">{names}</select>'
            hidden = '<input type="text" name="scaling" value="Linear">'
            body = f'<html><form action="query">{select}{hidden}</form></html>'
        elif what == "query":
            body = f'<html><a href="image?{urlencode(query)}">FITS</a><a href="image.jpg">JPEG</a></html>'
        else:
            assert (query["scaling"], query["coordinates"]) == ("Linear", "ICRS")
            ra, dec = map(float, query["Position"].split())
            size, fov = int(query["pixels"]), float(query["size"].split(",")[0])
            wcs = tan_wcs(ra, dec, fov * 3600 / size, size)
            seen = np.nan_to_num(self.services.sky.seen(query["survey"][-1], wcs, (size, size)))
            self._send(200, "image/fits", fits_bytes(seen, wcs.to_header()))
            return
        self._send(200, "text/html", body.encode())

    def _archive(self, what: str, query: Query) -> None:
        services = self.services
        if services.token and self.headers.get("Authorization") != f"Bearer {services.token}":
            self._send(401, "text/plain", b"token expired")
        elif what in {"sia2", "sia1"} and what.endswith("2") != query["POS"].startswith("CIRCLE"):
            self._send(200, "text/xml", votables.error("POS is not understood"))
        elif what in {"sia2", "sia1", "flat"}:
            self._send(200, "text/xml", votables.images(services, what, query))
        elif what == "datalink":
            self._send(200, "text/xml", votables.links(services.url, query["ID"]))
        elif what == "soda":
            self._soda(*services.archive[query["ID"]], *map(float, query["CIRCLE"].split()))
        else:
            _, pixels, wcs = services.archive[what.removesuffix(".fits")]
            self._send(200, "image/fits", fits_bytes(pixels, votables.header(wcs)))

    def _soda(self, _: str, pixels: NDArray[np.float32], wcs: WCS, ra: float, dec: float, radius: float) -> None:
        with WCS_LOCK:
            cut = Cutout2D(pixels, SkyCoord(ra, dec, unit="deg"), 2 * radius * u.deg, wcs, mode="partial")
        self._send(200, "image/fits", fits_bytes(cut.data, votables.header(cut.wcs)))

    def _fault(self, fault: Fault, path: str, query: Query) -> None:
        if fault in {"429", "503"}:
            self._send(int(fault), "text/plain", b"slow down", Retry_After="1")
        elif fault.startswith("wait"):
            self._send(429, "text/plain", b"slow down", Retry_After=fault.removeprefix("wait"))
        elif fault in {"500", "404", "401"}:
            self._send(int(fault), "text/html", b"<html><body>oh</body></html>")
        elif fault == "hang":
            time.sleep(3)
            self.close_connection = True
        elif fault in {"drip", "drip_headers"}:
            self._drip(fault)
        elif fault == "cut":
            self._send(200, "image/fits", b"SIMPLE  = 1234", length="100000")
            self.close_connection = True
        elif fault == "html":
            self._send(200, "text/html", b"<!DOCTYPE html><html><body>Maintenance</body></html>")
        elif fault == "size":
            self._answer(path, query | {"width": "40", "height": "40", "size": "40", "pixels": "40"})
        elif fault == "corrupt":
            kind = query.get("format", "fits")
            self._send(200, "image/jpeg", b"\xff\xd8\xff\xe0junk" if kind == "jpg" else b"SIMPLE  = junk")
        elif fault.startswith("http"):
            self._send(302, "text/plain", b"", Location=fault)
        elif fault == "redirect":
            self._send(302, "text/plain", b"", Location=f"{self.path}&moved=1")
        elif fault == "huge":
            self._send(200, "image/fits", b"SIMPLE  =", length=str(10**10))
            self.close_connection = True
        else:
            raise AssertionError(fault)

    def _drip(self, fault: Fault) -> None:
        if fault == "drip":
            self._send(200, "image/fits", b"", length="100000")
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(60):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True
