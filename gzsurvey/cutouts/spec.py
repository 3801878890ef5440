"""A cutout SOURCE as the user writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath

from gzsurvey.errors import SourceError
from gzsurvey.recipes.imaging import is_survey, load_survey
from gzsurvey.resources import SURVEYS, shipped_names

KINDS: dict[str, str] = {
    "mosaic": "mosaic:DIR or mosaic:PATTERN with {band}: local FITS images",
    "images": "images:PATH: ready images in a directory, tar, zip or parquet",
    "hips": "hips:DIR or hips:URL: the tiles of a HiPS",
    "hips2fits": "hips2fits:HIPS_ID or hips2fits:HIPS_ID@URL: a hips2fits service",
    "legacy": "legacy:LAYER or legacy:LAYER@URL: the Legacy Surveys viewer",
    "sia": "sia:URL: the query address of an SIA service",
    "sdss": "sdss, sdss:RELEASE or sdss:RELEASE@URL: frames of the Sloan Digital Sky Survey",
    "skyview": "skyview:SURVEY or skyview:SURVEY@URL: a survey of NASA's SkyView, {band} in its name",
    "synthetic": "synthetic: made-up galaxies, for tests and benchmarks",
}
"""The kinds of source that exist, and how each is written."""
SERVERS: dict[str, tuple[str, ...]] = {
    "hips2fits": (
        "https://alasky.cds.unistra.fr/hips-image-services/hips2fits",
        "https://alaskybis.cds.unistra.fr/hips-image-services/hips2fits",
    ),
    "legacy": ("https://www.legacysurvey.org/viewer",),
    "sdss": ("https://skyserver.sdss.org",),
    "skyview": ("https://skyview.gsfc.nasa.gov/current/cgi/basicform.pl",),
}
"""Where services are asked that have no server in the SOURCE: the first, then its mirrors."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A map that is read at each target."""

    name: str
    """Of its catalogue column."""
    files: str
    """Pattern of its FITS images."""
    unit: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A SOURCE with the names and zero points of its bands."""

    text: str
    """As written, e.g. ``mosaic:/data/tiles/*_{band}.fits``."""
    bands: tuple[str, ...] | None = None
    """The source's names for the model's bands, in the model's order; None: the same names."""
    zeropoints: tuple[float | str, ...] | None = None
    """AB magnitude of one count, or the header keyword that holds it, per band; None: each file's own."""
    mask: str | None = None
    """Pattern of mask files, whose pixels are counted where they share a bit with `mask_bits`."""
    mask_bits: int = -1
    """Mask bits to avoid; -1 is any."""
    pixel_scale_arcsec: float | None = None
    """Side of the survey's pixels, to which the counts of a HiPS refer, arcsec."""
    requests_per_s: float | None = None
    """What the survey's host may be asked for; None: the recipe's."""
    collection: str | None = None
    """Of an archive: only its images."""
    product: str | None = None
    """Of an archive: only images of this ``dataproduct_subtype``."""
    survey: str = ""
    """Name of the survey that describes it; empty: the user wrote it out."""
    layers: tuple[LayerSpec, ...] = ()
    """Of a mosaic: maps to read at each target."""
    credit: str = ""
    """The line that a paper owes the survey."""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SourceError(self.text, _unknown(self.text))
        if not self.address and self.kind not in {"synthetic", "sdss"}:
            raise SourceError(self.text, f"says no path; write {KINDS[self.kind]}")
        if self.kind == "sia" and not self.servers:
            raise SourceError(self.text, f"is no address; write {KINDS[self.kind]}")
        for server in self.servers:
            if not server.startswith(("https://", "http://")) or "@" in server:
                raise SourceError(
                    self.text, "what stands behind @ must be a server's https:// address; a login belongs in ~/.netrc"
                )
        for name, values in (("--bands", self.bands), ("--zeropoints", self.zeropoints)):
            if values is not None and len(values) != 3:
                raise SourceError(self.text, f"{name} must name 3 values, one per band of the model, got {len(values)}")

    @classmethod
    def parse(
        cls, text: str, bands: str | Sequence[str] | None = None, zeropoints: str | Sequence[float | str] | None = None
    ) -> SourceSpec:
        """Read a SOURCE and its options.

        Parameters
        ----------
        text : str
            ``mosaic:…``, ``images:…``, …, or the name or YAML file of a survey.
        bands : str or sequence of str, optional
            ``--bands``: ``"g,r,Z"``, or the names.
        zeropoints : str or sequence, optional
            ``--zeropoints``: ``"0,0,30"``, ``"MAGZPT,MAGZPT,30"``, or the values.

        Raises
        ------
        gzsurvey.errors.SourceError
            The kind does not exist, there is no path, or there are not three values.
        gzsurvey.errors.RecipeError
            The survey's description is wrong.
        """
        numbers = None if zeropoints is None else tuple(_zeropoint(value) for value in _split(zeropoints))
        names = None if bands is None else tuple(map(str, _split(bands)))
        text = text.strip()
        return cls._described(text, names, numbers) if is_survey(text) else cls(text, names, numbers)

    @classmethod
    def _described(
        cls, text: str, bands: tuple[str, ...] | None, zeropoints: tuple[float | str, ...] | None
    ) -> SourceSpec:
        """Return the SOURCE that a survey describes; what is given on the command line goes first."""
        survey = load_survey(text)
        names = bands or survey.bands
        zeropoints = zeropoints or _described_zeropoints(text, survey.zeropoints, names)
        return cls(
            survey.cutouts,
            names,
            zeropoints,
            survey.mask,
            survey.mask_bits,
            survey.pixel_scale_arcsec,
            survey.requests_per_s,
            survey.collection,
            survey.product,
            PurePath(text).stem,
            tuple(LayerSpec(name, **layer.model_dump()) for name, layer in survey.layers.items()),
            survey.credit,
            survey.licence,
        )

    @property
    def kind(self) -> str:
        """The part before the colon."""
        return self.text.partition(":")[0]

    @property
    def address(self) -> str:
        """The part behind the colon."""
        return self.text.partition(":")[2]

    @property
    def place(self) -> str:
        """The address without its servers."""
        return self.address.partition("@")[0] if self.kind in SERVERS else self.address

    @property
    def servers(self) -> tuple[str, ...]:
        """Where a service is asked: the addresses behind ``@``, comma-separated, or the usual ones."""
        if self.kind in {"hips", "sia"}:
            return (self.address,) if self.address.startswith(("https://", "http://")) else ()
        _, _, named = self.address.partition("@")
        return tuple(named.split(",")) if named and self.kind in SERVERS else SERVERS.get(self.kind, ())

    @property
    def is_remote(self) -> bool:
        """Whether its pixels come over the network."""
        return bool(self.servers)

    @property
    def is_flux(self) -> bool:
        """Whether a HiPS is asked for flux: it names bands; otherwise for ready pictures."""
        return self.bands is not None or "{band}" in self.address

    @property
    def gives_flux(self) -> bool:
        """Whether its cutouts are flux rather than ready pictures."""
        return self.is_flux if self.kind in {"hips", "hips2fits"} else self.kind != "images"

    def counts_scale(self, stated_arcsec: float | None = None) -> float:
        """Side of the pixels to which the counts of a HiPS refer, arcsec.

        Parameters
        ----------
        stated_arcsec : float, optional
            What the HiPS itself says.

        Raises
        ------
        gzsurvey.errors.SourceError
            It is not known.
        """
        known = self.pixel_scale_arcsec or stated_arcsec
        if known is None:
            raise SourceError(
                self.text,
                "does not say the pixel scale of the images it was made from, to which its counts refer; "
                "describe the survey in a YAML file with 'pixel_scale_arcsec' (docs/reference/sources.md)",
            )
        return known


def _described_zeropoints(
    survey: str, described: float | dict[str, float | str] | None, bands: tuple[str, ...] | None
) -> tuple[float | str, ...] | None:
    if isinstance(described, dict):
        unknown = [band for band in bands or ("?",) if band not in described]
        if unknown:
            known = ", ".join(described)
            raise SourceError(survey, f"says no zero point of band {unknown[0]!r}; name some of {known} with --bands")
        return tuple(described[band] for band in bands or ())
    return None if described is None else (described,) * 3


def _split(value: str | Sequence[float | str]) -> Sequence[float | str]:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _zeropoint(value: float | str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _unknown(text: str) -> str:
    kind, colon, _ = text.partition(":")
    near = get_close_matches(kind, KINDS, n=1)
    if colon and near:
        return f"there is no source {kind!r}; did you mean {near[0]!r}?"
    surveys = shipped_names(SURVEYS)
    near = get_close_matches(text, surveys, n=1)
    if near:
        return f"there is no survey {text!r}; did you mean {near[0]!r}?"
    return (
        f"is no source of pixels; write {'; '.join(KINDS.values())}; a survey ({', '.join(surveys)}) or its .yaml file"
    )
