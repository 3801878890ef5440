"""A SLURM job array that works on a run in parts: one job per part, and no scheduler of our own."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from gzsurvey.errors import RecipeError
from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.recipes.cluster import ClusterProfile, SlurmJob, load_cluster

SCRIPT = """\
#!/bin/bash
# {run} in {parts} parts, one job each.
#   submit:  job=$(sbatch --parsable {script})
#   publish: sbatch --dependency=afterok:$job --wrap={publish}
#   again:   submit once more; finished blocks stay
#SBATCH --job-name=gzsurvey
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={threads}
#SBATCH --mem={memory_mb}M
#SBATCH --time={time_limit}
#SBATCH --requeue                # after a node's failure
#SBATCH --signal=B:TERM@120      # two minutes before the time is up: stop in order, queue again
#SBATCH --open-mode=append
#SBATCH --output={log}
{directives}
{before}
{command} --part "$((SLURM_ARRAY_TASK_ID + 1))/{parts}" --quiet &
work=$!

warned=no
trap 'warned=yes; kill -TERM "$work"' TERM
wait "$work"
code=$?
while kill -0 "$work" 2>/dev/null; do # a signal ends `wait` before the work has stopped
  wait "$work"
  code=$?
done
if [ "$warned" = yes ] && [ "$code" != 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def write_job_array(run: Path, parts: int, cluster: ClusterProfile) -> Path:
    """Write the script of a job array into a RUN.

    Parameters
    ----------
    run : Path
        A planned RUN.
    parts : int
        How many jobs.
    cluster : ClusterProfile
        Its `job` says what each part asks SLURM for: what one worker would. Without one: the shipped ``slurm``.

    Returns
    -------
    Path
        The script.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The RUN's path cannot stand in a script.
    """
    profile = cluster if cluster.job is not None else load_cluster("slurm")
    job = profile.job or SlurmJob()
    here = run.resolve()
    paths = RunPaths(here)
    if any(not character.isprintable() for character in str(here)):
        raise RecipeError("--sbatch", f"cannot name {str(here)!r} in a script; plan the run elsewhere")
    directives = (*(["--gpus-per-task=1"] if job.gpu else []), *job.directives)
    text = SCRIPT.format(
        run=here.name,
        parts=parts,
        last=parts - 1,
        script=shlex.quote(str(paths.job_script)),
        publish=shlex.quote(_command("publish", here)),
        threads=profile.threads,
        memory_mb=round(job.memory_gb * 1000),
        time_limit=job.time_limit,
        log=shlex.quote(f"{str(paths.logs).replace('%', '%%')}/part-%a.log"),
        directives="".join(f"#SBATCH {option}\n" for option in directives),
        before="".join(f"{line}\n" for line in job.before),
        command=_command("run", here),
    )
    paths.logs.mkdir(exist_ok=True)
    with written_aside(paths.job_script) as aside:
        aside.write_text(text, encoding="utf-8")
    return paths.job_script


def _command(name: str, run: Path) -> str:
    return shlex.join([sys.executable, "-m", "gzsurvey", name, str(run)])
