"""``python sky_server.py PORT``: the simulated sky behind the services of `loopback`, in a process of its own."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "cutouts"))
from loopback import Handler, Services
from skies import simulated_sky

if __name__ == "__main__":
    services = Services(simulated_sky())
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), type("Bound", (Handler,), {"services": services}))
    server.daemon_threads = True
    server.serve_forever(0.05)
