"""What is asked for: one model, one table of targets, one or more sources, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import RecipeError
from gzsurvey.recipes.survey import SurveyRecipe
from gzsurvey.sky.columns import ColumnChoices


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that `plan` needs; building it touches no disk."""

    model: Path
    targets: str
    """A file, a HATS directory, or a glob of files that are one table."""
    sources: tuple[SourceSpec, ...]
    """The first that covers a target in all bands serves it."""
    recipe: SurveyRecipe
    footprint: str | None = None
    exclude: str | None = None
    """A footprint, or a RUN whose targets are left out."""
    select: str | None = None
    keep: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    """Whose volunteers `publish` imitates; empty: the card's default."""
    columns: ColumnChoices = field(default_factory=ColumnChoices)
    duplicates: Literal["refuse", "first"] = "refuse"
    limit: int | None = None
    batch_size: int | None = None
    """Instead of the recipe's."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError("--cutouts", "at least one source of pixels is needed, e.g. mosaic:DIR")
        if self.batch_size is not None and not 1 <= self.batch_size <= 4096:
            raise RecipeError("--batch-size", f"must be 1 to 4096, got {self.batch_size}")
        repeated = [name for name in self.keep if self.keep.count(name) > 1]
        if repeated:
            raise RecipeError("--keep", f"{repeated[0]!r} stands twice")

    @property
    def images_per_batch(self) -> int | Literal["auto"]:
        """Galaxies given to the model at once."""
        return self.batch_size or self.recipe.batch_size
