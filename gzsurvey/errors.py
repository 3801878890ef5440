"""Everything that can go wrong, as one tree.

::

    GZSurveyError            one line on stderr, exit 1
    ├── RecipeError          a recipe, campaign, profile or card is wrong: refuse before starting
    ├── TableError           a table of targets, votes or labels is wrong: names the rows
    ├── SourceError          a source of pixels can never work (no WCS, missing band): refuse at plan time
    │   └── AccessDenied     a service refuses us: the run stops, and can be repeated with a token
    ├── CardMismatch         the model does not fit this survey: refuse
    ├── OutputConflict       OUT or RUN was made from other inputs: refuse, show the difference
    ├── OutputBusy           another process works on this OUT or RUN: wait until it has ended
    ├── DiskFull             nothing more can be written: the run stops, and can be repeated
    ├── ClusterError         workers cannot be reached, or cannot do the work: the run can be repeated
    ├── TrainingError        training cannot go on (no finite loss, collapse, no labels)
    ├── ExportError          the ONNX file does not agree with the checkpoint: keep nothing
    ├── DemoFailed           the demo's own checks failed
    ├── VerificationFailed   products of a run are damaged, or do not belong together
    ├── RunIncomplete        a run ended with failed blocks (exit 3; repeat the command)
    ├── CutoutUnavailable    no usable pixels for one target: a miss with a status, go on
    └── SourceFault          a source misbehaved for one target: retry, then a miss

Every class passes all its arguments to ``super().__init__``, so that errors survive
being pickled between Dask workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class GZSurveyError(Exception):
    """Base of all errors that gzsurvey explains in one line."""

    exit_code = 1


class RecipeError(GZSurveyError):
    """A YAML file, or a shipped name, is wrong.

    Parameters
    ----------
    where : str
        The file or shipped name.
    problem : str
        What is wrong with which key or value, and what to change.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class TableError(GZSurveyError):
    """A table cannot be used as it is.

    Parameters
    ----------
    where : str
        The table's file name.
    problem : str
        What is wrong, and what to change.
    rows : sequence of int
        Zero-based rows that show the problem; the first five are named.
    """

    def __init__(self, where: str, problem: str, rows: Sequence[int] = ()) -> None:
        super().__init__(where, problem, tuple(int(r) for r in rows))
        self.where, self.problem, self.rows = where, problem, tuple(int(r) for r in rows)

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.where}: {self.problem}"
        shown = ", ".join(str(r) for r in self.rows[:5])
        more = f" and {len(self.rows) - 5} more" if len(self.rows) > 5 else ""
        return f"{self.where}: {self.problem} (row {shown}{more}, counted from 0)"


class SourceError(GZSurveyError):
    """A source of pixels can never work as asked.

    Parameters
    ----------
    source : str
        The SOURCE as the user wrote it, or the file in it.
    problem : str
        What is wrong, and what to change.
    """

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)
        self.source, self.problem = source, problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


class AccessDenied(SourceError):
    """A service refuses to answer us at all."""


class CardMismatch(GZSurveyError):
    """A model file lacks a card, or its card does not fit what was asked.

    Parameters
    ----------
    model : str
        The model file.
    problem : str
        What is missing or different, and what is expected.
    """

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(model, problem)
        self.model, self.problem = model, problem

    def __str__(self) -> str:
        return f"{self.model}: {self.problem}"


class OutputConflict(GZSurveyError):
    """OUT or RUN was made from other inputs.

    Parameters
    ----------
    out : Path or str
        The directory.
    differences : sequence of str
        One entry per difference: what it was, what it is now.
    """

    def __init__(self, out: Path | str, differences: Sequence[str]) -> None:
        super().__init__(str(out), tuple(differences))
        self.out, self.differences = str(out), tuple(differences)

    def __str__(self) -> str:
        return f"{self.out} was made from other inputs: {'; '.join(self.differences)}. Choose another directory."


class DiskFull(GZSurveyError):
    """The disk of a RUN has no space left.

    Parameters
    ----------
    run : Path or str
        The RUN directory.
    """

    def __init__(self, run: Path | str) -> None:
        super().__init__(str(run))
        self.run = str(run)

    def __str__(self) -> str:
        return f"{self.run}: its disk is full; free some space, then repeat the command"


class OutputBusy(GZSurveyError):
    """Another process works on OUT or RUN.

    Parameters
    ----------
    out : Path or str
        The directory.
    who : str
        Which process, or which part.
    """

    def __init__(self, out: Path | str, who: str) -> None:
        super().__init__(str(out), who)
        self.out, self.who = str(out), who

    def __str__(self) -> str:
        return f"{self.out}: {self.who} is working on it now; wait until it has ended"


class ClusterError(GZSurveyError):
    """The workers of a run cannot be reached, or cannot do the work.

    Parameters
    ----------
    cluster : str
        Its address or profile.
    problem : str
        What is wrong, and what to do.
    """

    def __init__(self, cluster: str, problem: str) -> None:
        super().__init__(cluster, problem)
        self.cluster, self.problem = cluster, problem

    def __str__(self) -> str:
        return f"{self.cluster}: {self.problem}"


class TrainingError(GZSurveyError):
    """Training cannot start or go on."""


class ExportError(GZSurveyError):
    """An exported file does not agree with its checkpoint, so it is not kept."""


class DemoFailed(GZSurveyError):
    """The demo finished, but its catalogue does not pass the demo's own checks."""


class VerificationFailed(GZSurveyError):
    """Products of a run are damaged, or do not belong together.

    Parameters
    ----------
    run : Path or str
        The RUN directory.
    problems : sequence of str
        One each: which file, which block or row, what is wrong. The first twenty are shown.
    """

    def __init__(self, run: Path | str, problems: Sequence[str]) -> None:
        super().__init__(str(run), tuple(problems))
        self.run, self.problems = str(run), tuple(problems)

    def __str__(self) -> str:
        more = f"; and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        return f"{self.run} fails verification: {'; '.join(self.problems[:20])}{more}"


class RunIncomplete(GZSurveyError):
    """A run ended with failed or unfinished blocks.

    Parameters
    ----------
    run : Path or str
        The RUN directory.
    failed, total : int
        Blocks without a result, and blocks in the plan.
    cause : str
        The first cause on record.
    """

    exit_code = 3

    def __init__(self, run: Path | str, failed: int, total: int, cause: str) -> None:
        super().__init__(str(run), failed, total, cause)
        self.run, self.failed, self.total, self.cause = str(run), failed, total, cause

    def __str__(self) -> str:
        return (
            f"{self.run}: {self.failed} of {self.total} blocks are not finished ({self.cause}). "
            f"The rest is safe; repeat the command to retry them."
        )


class CutoutUnavailable(GZSurveyError):
    """There are no usable pixels for one target.

    Parameters
    ----------
    status : int
        One of `gzsurvey.status.Status`.
    reason : str
        For ``missing.ecsv``.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return self.reason


class SourceFault(GZSurveyError):
    """A source misbehaved for one target; asking again may help.

    Parameters
    ----------
    source : str
        The source's name.
    reason : str
        What it did.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"
