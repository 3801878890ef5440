"""Whether workers can do the work of a run: asked when it starts, and of each that joins later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gzsurvey import __version__
from gzsurvey.errors import ClusterError, RecipeError
from gzsurvey.inference.provider import open_session
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.survey.record import read_record

ALIKE = ("python", "dask", "distributed")
"""What driver, scheduler and workers must have in the same version."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What a process finds out about itself."""

    gzsurvey: str
    sees_run: bool
    model_problem: str = ""
    """Why it cannot predict as planned; empty: it can."""


def examine(run: str) -> Fitness:
    """Look around in this process: version, shared disk, what the model of the run really runs on."""
    paths = RunPaths(Path(run))
    if not paths.plan.is_file():
        return Fitness(__version__, sees_run=False)
    record = read_record(paths.run)
    try:
        session = open_session(paths.model.read_bytes(), record.provider, 1)  # type: ignore[arg-type]
    except RecipeError as error:
        return Fitness(__version__, True, str(error))
    return Fitness(__version__, True, record.unlike_plan(session.get_providers()[0]))


def refuse_this_process(run: Path) -> None:
    """Check the process that works on its own.

    Raises
    ------
    gzsurvey.errors.ClusterError
        It would not predict as planned.
    """
    found = examine(str(run.resolve()))
    if found.model_problem:
        raise ClusterError("this process", found.model_problem)


def refuse_unfit(client: Any, where: str, run: Path, predicting: Collection[str]) -> None:
    """Check all workers there are, and the scheduler.

    Raises
    ------
    gzsurvey.errors.ClusterError
        Names the first that cannot do the work, and what to change.
    """
    scheduler = unlike(client.get_versions())
    problem = f"its scheduler {scheduler}" if scheduler else next(iter(unfit(client, run, predicting).values()), "")
    if problem:
        raise ClusterError(where, problem)


def unfit(
    client: Any, run: Path, predicting: Collection[str], workers: Collection[str] | None = None
) -> dict[str, str]:
    """Return what keeps workers from the work, and what to change, by address.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    run : Path
        The RUN.
    predicting : collection of str
        Addresses of those that run the model; others only fetch.
    workers : collection of str, optional
        Whom to ask; by default all.
    """
    versions = client.get_versions()
    asked = list(versions["workers"] if workers is None else workers)
    if not asked:
        return {}
    found = {worker: unlike(versions, worker) for worker in asked if worker in versions["workers"]}
    alike = [worker for worker, problem in found.items() if not problem]
    here = run.resolve()
    answers = client.run(examine, str(here), workers=alike, on_error="return") if alike else {}
    found |= {worker: _problem(answer, here, worker in predicting) for worker, answer in answers.items()}
    return {worker: f"worker {worker} {problem}" for worker, problem in found.items() if problem}


def unlike(versions: Mapping[str, Any], worker: str | None = None) -> str:
    """Say in what the scheduler, or a worker, differs from this process; empty: in nothing.

    Parameters
    ----------
    versions : mapping
        From ``Client.get_versions()``.
    worker : str, optional
        An address.
    """
    about = versions["scheduler"] if worker is None else versions["workers"][worker]
    here, there = (
        {name: _comparable(name, str(packages.get(name))) for name in ALIKE}
        for packages in (versions["client"]["packages"], (about or {}).get("packages", {}))
    )
    different = [name for name in ALIKE if here[name] != there[name]]
    said = ", ".join(f"{name} {there[name]}" for name in different)
    mine = ", ".join(f"{name} {here[name]}" for name in different)
    return f"has {said}, this process {mine}; start it with the same environment" if different else ""


def _problem(answer: Fitness | Exception, run: Path, predicts: bool) -> str:
    if isinstance(answer, OSError):
        return ""  # it has left meanwhile
    if isinstance(answer, Exception):
        text = " ".join(str(answer).split())[:200]
        return f"lacks gzsurvey {__version__} or a package of it ({type(answer).__name__}: {text}); install it there"
    if answer.gzsurvey != __version__:
        return f"has gzsurvey {answer.gzsurvey}, this is {__version__}; install the same"
    if not answer.sees_run:
        return f"does not see {run}; RUN must be on a shared disk"
    return answer.model_problem if predicts else ""


def _comparable(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version
