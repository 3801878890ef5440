"""Dataset recipes: which images and votes make a training store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from gzsurvey.errors import RecipeError
from gzsurvey.recipes.base import Section, parse, read_yaml
from gzsurvey.recipes.columns import ColumnMap, Holds, load_column_map
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.resources import RECIPES, find

CUTOUT_KINDS = ("mosaic:", "hips:", "hips2fits:", "legacy:", "sdss:", "sia:", "skyview:", "synthetic:")
"""How the `images` of a source begins where they are cut out of a survey."""


class Join(Section):
    """Columns of a second table, brought to a catalogue's rows by a common key."""

    file: str
    column: str
    """The catalogue's key."""
    key: str | None = None
    """The second table's; None: of the same name."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """What to bring."""


class SourceRecipe(Section):
    """One image collection, with or without votes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
    campaign: str | None = None
    """A campaign, or a union where one table holds several; None: unlabelled."""
    images: str
    """Directory, tar, zip, parquet with image bytes, quoted glob of parquet files, or a cutout SOURCE."""
    catalogue: str | None = None
    """CSV, ECSV, FITS, VOTable, Parquet or a quoted glob; None: the parquet that holds the
    images, or else every image, by its file name."""
    join: tuple[Join, ...] = ()
    """Further tables with image names, sizes or redshifts."""
    bands: tuple[str, ...] | None = None
    """Of a cutout SOURCE, as ``classify --bands``."""
    zeropoints: tuple[float | str, ...] | None = None
    """Of a cutout SOURCE, as ``classify --zeropoints``."""
    id_column: str | None = None
    """None: the first of ``id``, ``id_str``, ``object_id`` that the catalogue has."""
    image_column: str | None = None
    """Holds file names; None: the file's stem is the id."""
    ra_column: str | None = None
    dec_column: str | None = None
    r50_column: str | None = None
    """Half-light radius, arcsec."""
    r90_column: str | None = None
    mag_column: str | None = None
    split_column: str | None = None
    """Holds the published split: train, validation (or val) or test."""
    split: str | None = None
    """The published split of the whole source."""
    columns: str | ColumnMap = "default"
    """A shipped column map (``catalogs/columns/``), a ``.yaml`` file, or the map itself."""
    fractions: Holds | None = None
    """What the vote columns hold; None: as the column map says."""
    assumed_votes: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Volunteers per galaxy, where the table has fractions without totals; 44 for GZ2."""
    ranges: dict[str, tuple[float | None, float | None]] = {}
    """Keep rows whose value lies in [low, high], by column; NaN is dropped."""
    not_in: tuple[str, ...] = ()
    """Earlier sources whose galaxies, by id or within 5 arcsec, are left out of this one."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use the first rows only."""
    crop: Annotated[float, Field(gt=0.1, le=1.0)] | None = None
    """Instead of the preparation's crop."""
    licence: str = "unknown"
    citation: str = "unknown"

    @field_validator("images")
    @classmethod
    def _ready_images_need_no_kind(cls, value: str) -> str:
        return value.removeprefix("images:")

    @property
    def is_cutouts(self) -> bool:
        """Whether pixels are cut out of a survey rather than ready."""
        return self.images == "sdss" or self.images.startswith(CUTOUT_KINDS)

    @property
    def column_map(self) -> ColumnMap:
        """The column map, with `fractions` applied."""
        if isinstance(self.columns, ColumnMap):
            found = self.columns
        else:
            found = ColumnMap() if self.columns == "default" else load_column_map(self.columns)
        return found if self.fractions is None else found.model_copy(update={"holds": self.fractions})

    @model_validator(mode="after")
    def _votes_have_a_catalogue(self) -> SourceRecipe:
        if self.split is not None and self.split_column is not None:
            raise ValueError("give 'split' or 'split_column', not both")
        if self.split is not None and self.split not in ("train", "validation", "test"):
            raise ValueError(f"'split' is train, validation or test, not {self.split!r}")
        if self.is_cutouts and self.catalogue is None:
            raise ValueError("a cutout SOURCE needs a 'catalogue' with positions")
        return self


class Splits(Section):
    """Shares of the sky's galaxies in each part, by groups within 5 arcsec."""

    train: Annotated[float, Field(ge=0, le=1)] = 0.8
    validation: Annotated[float, Field(ge=0, le=1)] = 0.1
    test: Annotated[float, Field(ge=0, le=1)] = 0.1
    published: bool = False
    """Refuse a labelled source without a split of its own."""
    validation_from_train: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of published training galaxies that become validation; published tables have
    train and test only."""

    @model_validator(mode="before")
    @classmethod
    def _published_is_a_word(cls, value: Any) -> Any:
        return {"published": True} if value == "published" else value

    @model_validator(mode="after")
    def _shares_add_up(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1.0) > 1e-6:
            raise ValueError("'train', 'validation' and 'test' must add up to 1")
        return self


class HoldOut(Section):
    """Galaxies that no source may contribute."""

    file: str | None = None
    """CSV, ECSV, FITS, VOTable or Parquet with ids or positions."""
    ids: tuple[str, ...] = ()
    id_column: str | None = None
    ra_column: str | None = None
    dec_column: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_is_a_file(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_is_held_out(self) -> HoldOut:
        if (self.file is None) == (not self.ids):
            raise ValueError("give 'file' or 'ids'")
        return self


class DatasetRecipe(Section):
    """What `dataset build` reads."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
    data: str | None = None
    """Folder that relative paths start from; None: the recipe file's."""
    preparation: Preparation
    answers: str = "gz_evo_v0_1"
    """Campaign or union whose answers are the columns of the vote matrix."""
    sources: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    splits: Splits = Splits()
    seed: Annotated[int, Field(ge=0)] = 0
    hold_out: tuple[HoldOut, ...] = ()
    simulated: bool = False

    @model_validator(mode="before")
    @classmethod
    def _image_size_is_a_preparation(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "image_size" not in value:
            return value
        inner = value.get("preparation") or {}
        if not isinstance(inner, dict) or "image_size" in inner:
            raise ValueError("give 'image_size' once: at the top, or in 'preparation'")
        rest = {key: item for key, item in value.items() if key != "image_size"}
        return rest | {"preparation": inner | {"image_size": value["image_size"]}}

    @model_validator(mode="after")
    def _not_in_names_earlier_sources(self) -> DatasetRecipe:
        earlier: set[str] = set()
        for source in self.sources:
            unknown = [name for name in source.not_in if name not in earlier]
            if unknown:
                raise ValueError(f"source {source.name!r}: 'not_in' names {unknown[0]!r}, which is no earlier source")
            earlier.add(source.name)
        return self

    @model_validator(mode="after")
    def _sources_differ(self) -> DatasetRecipe:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are named {twice[0]!r}; names must differ")
        return self


def load_dataset_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> DatasetRecipe:
    """Read a dataset recipe, with its paths made absolute.

    Parameters
    ----------
    name_or_path : str
        A shipped name (``gz-evo-hf``) or a ``.yaml`` file. Relative paths in it start
        from its `data` folder, or else from the file's own folder.
    overrides : sequence of str
        ``section.key=value``; a relative ``data=FOLDER`` starts from the current folder.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, a misspelt key, a value out of range, or a shipped recipe whose
        `data` was not set.
    """
    path = find(RECIPES, name_or_path)
    recipe = parse(read_yaml(path), DatasetRecipe, name_or_path, overrides)
    shipped = path.resolve().parent == RECIPES.resolve()
    if shipped and recipe.data is None:
        raise RecipeError(name_or_path, "says nothing about where your data is: add --set data=FOLDER")
    return resolve_paths(recipe, _root(recipe, path, overrides))


def resolve_paths(recipe: DatasetRecipe, root: Path) -> DatasetRecipe:
    """Return `recipe` with every relative path starting from `root`."""
    sources = tuple(
        source.model_copy(
            update={
                "images": _resolved_images(source, root),
                "catalogue": _resolved(source.catalogue, root),
                "join": tuple(j.model_copy(update={"file": _resolved(j.file, root)}) for j in source.join),
                "columns": _resolved_map(source.columns, root),
            }
        )
        for source in recipe.sources
    )
    held = tuple(h.model_copy(update={"file": _resolved(h.file, root)}) for h in recipe.hold_out)
    return recipe.model_copy(update={"sources": sources, "hold_out": held, "data": str(root)})


def _root(recipe: DatasetRecipe, path: Path, overrides: Iterable[str]) -> Path:
    if recipe.data is None:
        return path.resolve().parent
    overridden = any(override.partition("=")[0] == "data" for override in overrides)
    start = Path.cwd() if overridden else path.resolve().parent
    return (start / Path(recipe.data).expanduser()).resolve()


def _resolved(path: str | None, root: Path) -> str | None:
    return None if path is None else str(root / Path(path).expanduser())


def _resolved_images(source: SourceRecipe, root: Path) -> str:
    if source.images.startswith("mosaic:"):
        return f"mosaic:{_resolved(source.images.removeprefix('mosaic:'), root)}"
    return source.images if source.is_cutouts else str(_resolved(source.images, root))


def _resolved_map(columns: str | ColumnMap, root: Path) -> str | ColumnMap:
    if isinstance(columns, str) and columns.endswith((".yaml", ".yml")):
        return str(_resolved(columns, root))
    return columns
