"""A catalogue to programs that are open on the same desktop, by SAMP."""

from __future__ import annotations

from pathlib import Path

from gzsurvey.errors import GZSurveyError
from gzsurvey.outputs.opened import catalogue_files
from gzsurvey.outputs.paths import RunPaths

_TABLE, _MAP = "table.load.fits", "coverage.load.moc.fits"


def send(run: Path | str) -> str:
    """Load the catalogue of a RUN, and where it has predictions, in a running TOPCAT or Aladin.

    Parameters
    ----------
    run : Path or str
        A published RUN.

    Returns
    -------
    str
        What was sent to whom.

    Raises
    ------
    gzsurvey.errors.GZSurveyError
        No SAMP hub is running, or no program there takes tables.
    gzsurvey.errors.TableError
        The run is not published.

    Examples
    --------
    >>> send("run")  # doctest: +SKIP
    """
    from astropy.samp import SAMPIntegratedClient
    from astropy.samp.errors import SAMPHubError

    paths = RunPaths(Path(run).resolve())
    messages = [(_TABLE, file) for file in catalogue_files(paths.catalogue)]
    messages += [(_MAP, paths.delivered)] if paths.delivered.is_file() else []
    client = SAMPIntegratedClient(name="gzsurvey", description="Galaxy morphology catalogues")
    try:
        client.connect()
    except SAMPHubError:
        raise GZSurveyError("no SAMP hub is running; start TOPCAT or Aladin, then repeat the command") from None
    try:
        heard = {name for mtype, file in messages for name in _notify(client, mtype, file, paths.run.name)}
    finally:
        client.disconnect()
    if not heard:
        raise GZSurveyError("no program on the SAMP hub takes tables; start TOPCAT or Aladin, then repeat the command")
    return f"{', '.join(file.name for _, file in messages)} sent to {', '.join(sorted(heard))}"


def _notify(client: object, mtype: str, file: Path, run: str) -> list[str]:
    """Send one file; return the names of the programs that take its kind."""
    message = {"samp.mtype": mtype, "samp.params": {"url": file.as_uri(), "name": f"{run}/{file.name}"}}
    receivers = client.notify_all(message)  # type: ignore[attr-defined]
    return [client.get_metadata(receiver).get("samp.name", receiver) for receiver in receivers]  # type: ignore[attr-defined]
