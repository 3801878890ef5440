"""The page that classifies a footprint is run as it stands, against a sky server and a cluster of processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from outputs.catalogues import client
from survey import tiny
from survey.processes import free_port, kill, sky_server

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.survey import ledger

PAGE = Path(__file__).parents[2] / "docs/how-to/classify-a-footprint.md"
SKY = "CDS/P/DESI-Legacy-Surveys/DR10/color"


def write_targets(path: Path, rows: int) -> None:
    """Half of them within the page's region of 50 arcsec, the others around it."""
    rng = np.random.default_rng(3)
    distance = np.where(np.arange(rows) % 2, rng.uniform(0, 0.013, rows), rng.uniform(0.015, 0.05, rows))
    angle = rng.uniform(0, 2 * np.pi, rows)
    table = Table(
        {
            "id": np.arange(rows), "ra": 150 + distance * np.cos(angle), "dec": 2 + distance * np.sin(angle),
            "r50": np.full(rows, 2.0), "mag": rng.uniform(14, 19, rows),
        }
    )  # fmt: skip
    table.write(path)


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    client("stilts")
    tiny.write_model(tmp_path / "model.onnx")
    write_targets(tmp_path / "targets.fits", 1_040)
    commands = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    port, started, said = str(free_port()), [], ""
    with sky_server(tmp_path) as sky:
        try:
            for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text(), re.M | re.S):
                code = code.replace("8786", port).replace(SKY, f"SIM/P/sky/color@{sky.url}/hips2fits")
                code = code.replace("gzsurvey classify", "gzsurvey classify --set politeness.requests_per_s=1000")
                if "dask scheduler" in code:
                    for line in code.replace(" &", "").splitlines():
                        started.append(subprocess.Popen(line.split(), cwd=tmp_path, env=environment))
                        time.sleep(1)
                    continue
                command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
                done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, f"{code}\n{done.stderr}"
                said += done.stdout
        finally:
            for process in started:
                kill(process)
    assert "520 galaxies, 520 with a prediction" in said
    assert re.findall(r"rows: (\d+)$", said, re.M) == ["520", "0"]
    assert "'row': 520" in said
    entries = ledger.read_entries(tmp_path / "run")
    assert [entry.rows for entry in entries.values()] == [256, 256, 8]
    assert RunPaths(tmp_path / "run").hats.is_dir()
