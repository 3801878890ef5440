"""``python sky_server.py PORT``: the simulated sky behind the services of `loopback`, in a process of its own."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "cutouts"))
from loopback import Handler, Services, Sky
from skies import simulated_sky

GLOW = {"g": 0.03, "r": 0.05, "z": 0.08}
"""Of the sky, so that no picture of it is black or grey."""

if __name__ == "__main__":
    dark = simulated_sky()
    services = Services(Sky({band: plane + np.float32(GLOW[band]) for band, plane in dark.planes.items()}, dark.wcs))
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), type("Bound", (Handler,), {"services": services}))
    server.daemon_threads = True
    server.serve_forever(0.05)
