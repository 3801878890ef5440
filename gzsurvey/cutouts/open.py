"""From a SOURCE as written to a source of pixels: checked once at plan time, opened by each worker.

A kind is imported when a source of it is opened: what reads survey images brings much of astropy, which others need not
wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from gzsurvey.cutouts.cache import REPLIES, cache_folder
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.remote.token import token
from gzsurvey.cutouts.source import MISSING_LIMIT, CutoutSource, RemoteSource
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness

POLITE = Politeness()
REMOTE = {
    "hips2fits": "gzsurvey.cutouts.hips2fits:Hips2fitsSource",
    "legacy": "gzsurvey.cutouts.legacy:LegacySource",
    "sdss": "gzsurvey.cutouts.sdss:SdssSource",
    "sia": "gzsurvey.cutouts.sia:SiaSource",
    "skyview": "gzsurvey.cutouts.skyview:SkyviewSource",
}
"""Sources that ask services, by kind: made of a spec, a preparation, a client and a share of missing pixels."""


def check_source(
    spec: SourceSpec, preparation: Preparation, cache_dir: Path | None = None, politeness: Politeness = POLITE
) -> Path | None:
    """Refuse a source that can never work, and index it if it is a mosaic.

    A service is asked for a few pixels.

    Parameters
    ----------
    spec : SourceSpec
        The source.
    preparation : Preparation
        The model's; its bands are used where `spec` names none.
    cache_dir : Path, optional
        Where indexes are kept; the user's cache by default.
    politeness : Politeness
        How services are asked.

    Returns
    -------
    Path or None
        The index file, to be copied into the run; None for sources without one.

    Raises
    ------
    gzsurvey.errors.SourceError
        What is wrong, and what to change.
    """
    if preparation.is_flux and not spec.gives_flux:
        raise SourceError(spec.text, "gives ready pictures, and the model takes flux; name bands, or another source")
    if spec.kind == "mosaic":
        from gzsurvey.cutouts.index_file import indexed

        return indexed(spec, preparation.bands, cache_dir or cache_folder())
    source = open_source(spec, preparation, politeness=politeness)
    if spec.is_remote and isinstance(source, RemoteSource):
        source.probe()
    return None


def open_source(
    spec: SourceSpec,
    preparation: Preparation,
    index: Path | None = None,
    missing_limit: float = MISSING_LIMIT,
    politeness: Politeness = POLITE,
) -> CutoutSource:
    """Open a source in the process that reads its pixels.

    Parameters
    ----------
    spec : SourceSpec
        The source.
    preparation : Preparation
        The model's.
    index : Path, optional
        What `check_source` returned, or the run's copy of it; built anew for a mosaic if not given.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is no cutout.
    politeness : Politeness
        How services are asked.

    Raises
    ------
    gzsurvey.errors.SourceError
        The source cannot be opened.
    """
    if spec.kind == "images":
        from gzsurvey.cutouts.images_source import ImagesSource

        return ImagesSource(Path(spec.address).expanduser())
    if spec.kind == "synthetic":
        from gzsurvey.cutouts.synthetic import SyntheticSource

        return SyntheticSource(preparation)
    if spec.kind == "hips":
        from gzsurvey.cutouts.hips import Folder, HipsSource, Server

        shelf = Server(_client(spec, politeness)) if spec.is_remote else Folder()
        return HipsSource(spec, preparation, shelf, missing_limit)
    if spec.is_remote:
        remote: Callable[..., RemoteSource] = resolve_name(REMOTE[spec.kind])
        return remote(spec, preparation, _client(spec, politeness), missing_limit)
    from gzsurvey.cutouts.index_file import read_index
    from gzsurvey.cutouts.mosaic import MosaicSource
    from gzsurvey.cutouts.mosaic_index import build_index

    content = build_index(spec, preparation.bands) if index is None else read_index(index)
    return MosaicSource(content.model_copy(update={"source": spec.text}), preparation, missing_limit)


def _client(spec: SourceSpec, politeness: Politeness) -> Client:
    if spec.requests_per_s is not None:
        politeness = politeness.model_copy(update={"requests_per_s": spec.requests_per_s})
    return Client(spec.text, spec.servers, politeness, cache_folder() / REPLIES, token())
