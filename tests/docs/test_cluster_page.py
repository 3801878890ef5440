"""Commands of the page on clusters, on this machine and with stand-ins for SLURM's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from survey import slurm, tiny

from gzsurvey.survey import status

HOW_TO = Path(__file__).parents[2] / "docs/how-to"


@pytest.mark.long
def test_the_commands_of_the_page_work_in_every_place(tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "model.onnx")
    tiny.write_targets(tmp_path / "targets.csv", 700)
    (tmp_path / "survey.sbatch").write_text((HOW_TO / "survey.sbatch").read_text())
    environment = slurm.install(tmp_path / "bin") | {"SLURM_NTASKS": "2"}
    environment["PATH"] = (
        f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    )

    def type_in(lines: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", lines], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    page = (HOW_TO / "run-on-a-cluster.md").read_text().replace("mosaic:tiles", "synthetic:")
    commands = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    plan, finish, array, inside, _driver, _scheduler, mixed = commands
    type_in(array)
    until_finished(tmp_path / "array")
    type_in(plan)
    type_in(inside)
    until_finished(tmp_path / "run")
    assert "3 of 3 blocks were already finished" in type_in(mixed)
    assert "3 of 3 blocks finished, 700 of 700 targets" in type_in(finish)
    assert (tmp_path / "run/catalogue.fits").is_file()


def until_finished(run: Path) -> None:
    deadline = time.monotonic() + 300
    while status(run).unfinished:
        assert time.monotonic() < deadline, run
        time.sleep(0.2)
