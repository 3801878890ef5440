"""Stand-ins for SLURM's commands: they read the same scripts and really start what these ask for, on this machine."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

SBATCH = """
import json, os, pathlib, shlex, subprocess, sys, time
here = pathlib.Path(__file__).resolve().parent
args = [a for a in sys.argv[1:] if not a.startswith("--")]
text = pathlib.Path(args[0]).read_text()
options = {}
for line in text.splitlines():
    if line.startswith("#SBATCH "):
        words = shlex.split(line[8:], comments=True)
        while words:
            name, _, value = words.pop(0).partition("=")
            if not value and words and not words[0].startswith("-"):
                value = words.pop(0)
            options[name] = value
job = 1 + len(list(here.glob("job-*.json")))
first, _, last = options.get("--array", "0-0").partition("-")
script = here / f"job-{job}.sh"
script.write_text(text)
runners = []
for task in range(int(first), int(last) + 1):
    environment = os.environ | {
        "SLURM_JOB_ID": f"{job}{task:03d}" if "--array" in options else str(job), "SLURM_CPUS_ON_NODE": "1",
    }
    if "--array" in options:
        environment |= {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": str(job)}
    log = options.get("--output", options.get("-o", str(here / "job-%J.log")))
    for pattern, value in (("%%", "@@"), ("%a", str(task)), ("%j", str(job)), ("%J", str(job)), ("@@", "%")):
        log = log.replace(pattern, value)
    runners.append(subprocess.Popen(
        [sys.executable, str(here / "runner.py"), str(script), log], env=environment,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ).pid)
(here / f"job-{job}.json").write_text(json.dumps({"options": options, "runners": runners, "script": text}))
print(job if "--parsable" in sys.argv else f"Submitted batch job {job}")
"""
RUNNER = """
import os, pathlib, subprocess, sys
here, job = pathlib.Path(__file__).resolve().parent, os.environ["SLURM_JOB_ID"]
restarts = 0
while True:
    with open(sys.argv[2], "a") as log:
        environment = os.environ | {"SLURM_RESTART_COUNT": str(restarts)}
        task = subprocess.Popen(["bash", sys.argv[1]], env=environment, stdout=log, stderr=subprocess.STDOUT)
        (here / f"pid-{job}").write_text(str(task.pid))
        code = task.wait()
    requeue = here / f"requeue-{job}"
    if not requeue.exists():
        break
    requeue.unlink()
    restarts += 1
(here / f"ended-{job}").write_text(f"{code} {restarts}")
"""
SCANCEL = """
import contextlib, json, os, pathlib, signal, sys
here = pathlib.Path(__file__).resolve().parent
for pid in json.loads((here / f"job-{sys.argv[1]}.json").read_text())["runners"]:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
"""
SQUEUE = """
import json, os, pathlib, sys
here = pathlib.Path(__file__).resolve().parent
for job in sys.argv[-1].partition("=")[2].split(","):
    for pid in json.loads((here / f"job-{job}.json").read_text())["runners"]:
        if os.path.exists(f"/proc/{pid}"):
            print(job, "RUNNING")
"""
SRUN = """
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    if name == "--ntasks":
        os.environ["SLURM_NTASKS"] = value
tasks = [
    subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(n)}) for n in range(int(os.environ["SLURM_NTASKS"]))
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """
import pathlib, sys
assert sys.argv[1] == "requeue"
(pathlib.Path(__file__).resolve().parent / f"requeue-{sys.argv[2]}").touch()
"""


def install(folder: Path) -> dict[str, str]:
    """Write the commands into a folder, and return an environment in which they are found."""
    folder.mkdir()
    (folder / "runner.py").write_text(RUNNER)
    commands = {"sbatch": SBATCH, "scancel": SCANCEL, "squeue": SQUEUE, "srun": SRUN, "scontrol": SCONTROL}
    for name, code in commands.items():
        (folder / f"{name}.py").write_text(code)
        command = folder / name
        command.write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} "$(dirname "$0")/{name}.py" "$@"\n')
        command.chmod(0o755)
    return dict(os.environ) | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
