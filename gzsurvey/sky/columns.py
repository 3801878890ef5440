"""Which column of a target table means what: by UCD, then by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gzsurvey.errors import TableError
from gzsurvey.expressions import find_names
from gzsurvey.sky.tables import ColumnInfo

ID_NAMES = (
    "id", "object_id", "objectid", "objid", "obj_id", "source_id", "sourceid", "dr8_id", "dr7objid", "iauname",
    "id_str", "targetid", "target_id", "galaxy_id", "cat_id", "name", "uid",
)  # fmt: skip
RA_NAMES = (
    "ra", "raj2000", "_raj2000", "ra_icrs", "ra_deg", "radeg", "right_ascension", "rightascension", "alpha_j2000",
    "alphapeak_j2000", "ramean", "target_ra", "ra_j2000", "alpha",
)  # fmt: skip
DEC_NAMES = (
    "dec", "dej2000", "_dej2000", "decj2000", "de_icrs", "dec_icrs", "dec_deg", "decdeg", "dedeg", "declination",
    "delta_j2000", "deltapeak_j2000", "decmean", "target_dec", "dec_j2000", "delta",
)  # fmt: skip
GALACTIC_NAMES = (("glon", "glat"), ("gal_lon", "gal_lat"), ("l", "b"))
R50_NAMES = (
    "r50", "r50_arcsec", "petro_th50", "petroth50", "petro_r50", "petror50", "petror50_r", "petrorad50_r",
    "half_light_radius", "shape_r", "r_eff", "reff", "r50_pix",
)  # fmt: skip
R90_NAMES = (
    "r90", "r90_arcsec", "petro_th90", "petroth90", "petro_r90", "petror90", "petror90_r", "petrorad90_r", "r90_pix",
)  # fmt: skip
IMAGE_NAMES = ("image", "file_loc")


@dataclass(frozen=True, slots=True)
class ColumnChoices:
    """Columns that the user named; None: found by UCD, then by name."""

    id: str | None = None
    """Several names, joined by commas, are joined with ``_``."""
    ra: str | None = None
    dec: str | None = None
    size: str | None = None
    size_unit: str | None = None
    """``arcsec``, ``pix``, …; None: the column's own, else arcsec."""
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Roles:
    """The columns that a table is read by; empty: there is none."""

    id: tuple[str, ...]
    ra: str = ""
    dec: str = ""
    galactic: bool = False
    """`ra` and `dec` hold galactic longitude and latitude."""
    r50: str = ""
    r90: str = ""
    image: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is needed, once."""
        found = (*self.id, self.ra, self.dec, self.r50, self.r90, self.image)
        return tuple(dict.fromkeys(name for name in found if name))


def find_roles(columns: Mapping[str, ColumnInfo], choices: ColumnChoices, where: str) -> Roles:
    """Decide which column means what.

    Parameters
    ----------
    columns : mapping of str to ColumnInfo
        Of the table.
    choices : ColumnChoices
        What the user named.
    where : str
        The table, for errors.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A column that the user named is not there.
    gzsurvey.errors.TableError
        No column can be an id.
    """
    choices = _as_in_the_table(choices, columns, where)
    ids = _ids(choices.id) or _one(columns, ("meta.id;meta.main",), ID_NAMES)
    if not ids:
        raise TableError(where, f"no column looks like an id; name one with --id-column among {', '.join(columns)}")
    ra, dec, galactic = _position(columns, choices)
    if bool(ra) != bool(dec):
        known, option = (ra, "--dec-column") if ra else (dec, "--ra-column")
        raise TableError(where, f"has {known!r} but nothing to go with it; name it with {option}")
    return Roles(
        id=ids,
        ra=ra,
        dec=dec,
        galactic=galactic,
        r50=choices.size or _first(_one(columns, (), R50_NAMES)),
        r90="" if choices.size else _first(_one(columns, (), R90_NAMES)),
        image=choices.image or _first(_one(columns, (), IMAGE_NAMES)),
    )


def _as_in_the_table(choices: ColumnChoices, columns: Mapping[str, ColumnInfo], where: str) -> ColumnChoices:
    """Return the choices in the table's own spelling."""

    def spelt(name: str | None) -> str | None:
        return find_names([name], columns, where)[0] if name else None

    ids = ",".join(find_names(_ids(choices.id), columns, where)) or None
    return replace(
        choices,
        id=ids,
        ra=spelt(choices.ra),
        dec=spelt(choices.dec),
        size=spelt(choices.size),
        image=spelt(choices.image),
    )


def _position(columns: Mapping[str, ColumnInfo], choices: ColumnChoices) -> tuple[str, str, bool]:
    ra = choices.ra or _first(_one(columns, ("pos.eq.ra;meta.main", "pos.eq.ra"), RA_NAMES))
    dec = choices.dec or _first(_one(columns, ("pos.eq.dec;meta.main", "pos.eq.dec"), DEC_NAMES))
    if ra or dec:
        return ra, dec, False
    for lon_name, lat_name in GALACTIC_NAMES:
        lon = _first(_one(columns, ("pos.galactic.lon",), (lon_name,)))
        lat = _first(_one(columns, ("pos.galactic.lat",), (lat_name,)))
        if lon and lat:
            return lon, lat, True
    return "", "", False


def _ids(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def _one(columns: Mapping[str, ColumnInfo], ucds: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    for ucd in ucds:
        for name, info in columns.items():
            if info.ucd.lower() == ucd:
                return (name,)
    folded = {name.lower(): name for name in reversed(list(columns))}
    for wanted in names:
        if wanted in folded:
            return (folded[wanted],)
    return ()


def _first(names: tuple[str, ...]) -> str:
    return names[0] if names else ""
