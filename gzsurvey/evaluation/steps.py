"""Galaxies seen worse, step by step: simulated ones drawn again, real cutouts degraded.

Letters: N galaxies, A answers, C bands, S pixels on a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.source import Cutout
from gzsurvey.dataset.tables import read_table
from gzsurvey.errors import RecipeError, TableError
from gzsurvey.evaluation.sample import galaxies_of
from gzsurvey.images.degrade import Degradation, degrade, sky_noise
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.progress import Progress
from gzsurvey.recipes.detectability import DetectabilityRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.simulation import Region, load_simulation_recipe
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.population import population
from gzsurvey.simulation.stamps import stamps
from gzsurvey.simulation.volunteers import Sight, answer_probabilities, signal_to_noise
from gzsurvey.training.labels import read_sizes
from gzsurvey.training.pictures import Survey, cut_out
from gzsurvey.votes.tree import DecisionTree

_DRAWN_AT_ONCE, _DRAWN_AT_MOST = 2000, 100_000
_FIRST_ID = 700_000_000
"""Ids of galaxies that no simulated survey has."""
_PART = 50
"""Galaxies that one process draws at a time."""

Floats = NDArray[np.float64]
Pictures = NDArray[np.uint8]
"""Shape (N, S, S, 3)."""


@dataclass(frozen=True)
class Step:
    """One way of seeing all galaxies."""

    change: str
    """``fainter``, ``smaller``, ``blurred`` or ``noisier``."""
    amount: float
    """In the unit of the recipe's key."""
    size_over_psf: Floats
    """Half-light radius over half of the PSF's width, shape (N,)."""
    signal_to_noise: Floats
    """Half of a galaxy's light over the noise inside its half-light radius, shape (N,)."""
    pictures: Callable[[Executor], Pictures]
    """Draws them, in the processes it is given."""
    volunteers: Callable[[DecisionTree], Floats] | None
    """Fractions of very many volunteers, shape (N, A); None: nobody knows."""

    @property
    def name(self) -> str:
        """File name without ending."""
        return f"{self.change}-{self.amount:g}"


def amounts(recipe: DetectabilityRecipe) -> Iterator[tuple[str, float]]:
    """Yield every change and amount; each change begins with none."""
    changes = {
        "fainter": recipe.fainter_mag,
        "smaller": recipe.smaller,
        "blurred": recipe.blurred,
        "noisier": recipe.noisier_mag,
    }
    for change, values in changes.items():
        yield from ((change, amount) for amount in values)


def simulated_steps(recipe: DetectabilityRecipe, preparation: Preparation) -> Iterator[Step]:
    """Yield every way of seeing simulated galaxies that are large and bright.

    Raises
    ------
    gzsurvey.errors.RecipeError
        There is no such region, or too few galaxies are large and bright.
    """
    region = find_region(recipe)
    galaxies = choose_galaxies(recipe, region)
    for change, amount in amounts(recipe):
        changed, seen_in = change_sky(galaxies, region, change, amount)
        yield Step(
            change, amount,
            size_over_psf=changed["r50"] / (seen_in.psf_fwhm_arcsec[1] / 2),
            signal_to_noise=signal_to_noise(changed, seen_in),
            pictures=partial(_drawn, changed, seen_in, preparation),
            volunteers=partial(answer_probabilities, Sight(changed, seen_in)),
        )  # fmt: skip


def find_region(recipe: DetectabilityRecipe) -> Region:
    """Return the region of the simulated sky whose camera takes the pictures."""
    regions = load_simulation_recipe(recipe.sky).regions
    found = next((region for region in regions if recipe.region in (None, region.name)), None)
    if found is None:
        raise RecipeError(recipe.sky, f"has no region {recipe.region!r}; it has {', '.join(r.name for r in regions)}")
    return found


def choose_galaxies(recipe: DetectabilityRecipe, region: Region) -> Galaxies:
    """Draw galaxies that are large and bright in the images of `region`."""
    half_width = region.psf_fwhm_arcsec[1] / 2
    found: list[Galaxies] = []
    for start in range(_FIRST_ID, _FIRST_ID + _DRAWN_AT_MOST, _DRAWN_AT_ONCE):
        drawn = population(recipe.seed, range(start, start + _DRAWN_AT_ONCE))
        large = drawn["r50"] / half_width >= recipe.least_size
        found.append(drawn[large & (drawn["mag_r"] <= recipe.faintest_mag)])
        if sum(map(len, found)) >= recipe.galaxies:
            return np.concatenate(found)[: recipe.galaxies]
    number = sum(map(len, found))
    raise RecipeError(
        "detectability",
        f"of {_DRAWN_AT_MOST:,} simulated galaxies {number} are as large and bright as least_size and "
        f"faintest_mag ask, {recipe.galaxies} are wanted; ask for less",
    )


def change_sky(galaxies: Galaxies, region: Region, change: str, amount: float) -> tuple[Galaxies, Region]:
    """Change galaxies, or the images they are seen in."""
    if change == "fainter":
        return _changed(galaxies, 1.0, amount), region
    if change == "smaller":
        return _changed(galaxies, amount, -5 * np.log10(amount)), region
    if change == "blurred":
        widths = tuple(amount * width for width in region.psf_fwhm_arcsec)
        return galaxies, region.model_copy(update={"psf_fwhm_arcsec": widths})
    # A depth of one magnitude less is an exposure 10 ** 0.8 shorter.
    update = {"depth_mag": tuple(depth - amount for depth in region.depth_mag),
              "gain": tuple(gain * 10 ** (-0.8 * amount) for gain in region.gain)}  # fmt: skip
    return galaxies, region.model_copy(update=update)


def _changed(galaxies: Galaxies, size: float, fainter_mag: float) -> Galaxies:
    changed = galaxies.copy()
    for name in ("r50", "r_major"):
        changed[name] *= size
    for name in ("mag_g", "mag_r", "mag_z"):
        changed[name] += fainter_mag
    return changed


def _drawn(galaxies: Galaxies, region: Region, preparation: Preparation, pool: Executor) -> Pictures:
    parts = [galaxies[start : start + _PART] for start in range(0, len(galaxies), _PART)]
    return np.concatenate(list(pool.map(_stamps, parts, [region] * len(parts), [preparation] * len(parts))))


def _stamps(galaxies: Galaxies, region: Region, preparation: Preparation) -> Pictures:
    drawn = dict(stamps(galaxies, region, preparation))
    return np.stack([drawn[row] for row in range(len(galaxies))])


def degradation(change: str, amount: float) -> Degradation:
    """Return what has to be done to a real cutout."""
    ways: dict[str, Callable[[float], Degradation]] = {
        "fainter": Degradation.fainter,
        "smaller": Degradation.smaller,
        "blurred": lambda factor: Degradation(psf=factor),
        "noisier": Degradation.noisier,
    }
    return ways[change](amount)


def real_steps(recipe: DetectabilityRecipe, preparation: Preparation, targets: Path, survey: Survey) -> Iterator[Step]:
    """Yield every way of seeing real galaxies that are large.

    Parameters
    ----------
    recipe : DetectabilityRecipe
        Its `psf_fwhm_arcsec` is needed.
    preparation : Preparation
        The model's.
    targets : Path
        Table with ids, positions and half-light radii.
    survey : Survey
        Source of flux.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The PSF's width is not given.
    gzsurvey.errors.TableError
        Too few galaxies are large and have a cutout.
    """
    if recipe.psf_fwhm_arcsec is None:
        raise RecipeError("psf_fwhm_arcsec", "must be given for real cutouts: --set psf_fwhm_arcsec=1.2")
    psf = recipe.psf_fwhm_arcsec
    cutouts = _Cutouts.read(recipe, psf, preparation, targets, survey)
    for change, amount in amounts(recipe):
        how = degradation(change, amount)
        yield Step(
            change, amount,
            size_over_psf=cutouts.r50_arcsec / (psf * how.psf / 2),
            signal_to_noise=cutouts.signal_to_noise * how.flux / how.noise,
            pictures=partial(_degraded, cutouts, how, preparation, recipe.seed),
            volunteers=None,
        )  # fmt: skip


@dataclass(frozen=True)
class _Cutouts:
    """Real galaxies in flux."""

    planes: list[NDArray[np.float32]]
    """Each (C, S, S), background-subtracted nanomaggies per pixel of the stretch's reference scale."""
    r50_arcsec: Floats
    psf_px: Floats
    """Width of the PSF in pixels of each cutout, shape (N,)."""
    signal_to_noise: Floats

    @classmethod
    def read(
        cls, recipe: DetectabilityRecipe, psf_arcsec: float, preparation: Preparation, targets: Path, survey: Survey
    ) -> _Cutouts:
        labels = galaxies_of(targets, read_table(targets))
        r50, _ = read_sizes(labels, survey.size_column, None)
        if r50 is None:
            raise TableError(str(targets), "has no half-light radius; add a column r50 (arcsec) or name size_column")
        large = np.flatnonzero(r50 / (psf_arcsec / 2) >= recipe.least_size)
        chosen = np.random.default_rng(recipe.seed).permutation(large)[: recipe.galaxies]
        planes, sizes, widths, strengths, lost = [], [], [], [], 0
        for request, answer in cut_out(labels.take(np.sort(chosen)), survey, preparation):
            if not isinstance(answer, Cutout) or not np.isfinite(answer.pixels).all():
                lost += 1
                continue
            if answer.pixels.dtype == np.uint8:
                raise RecipeError(survey.name, "serves pictures; only flux can be made fainter or noisier")
            scale = request.frame.scale_arcsec
            planes.append(answer.pixels.astype(np.float32))
            sizes.append(r50[np.sort(chosen)][request.row])
            widths.append(psf_arcsec / scale)
            strengths.append(_signal_to_noise(planes[-1], sizes[-1] / scale))
        if lost:
            Progress.say(f"detectability: {lost} of {len(chosen)} large galaxies have no complete cutout; left out")
        if len(planes) < recipe.least_galaxies:
            raise TableError(str(targets), f"has {len(planes)} galaxies with a half-light radius above "
                             f"{recipe.least_size:g} times half of the PSF's width and a complete cutout; "
                             f"{recipe.least_galaxies} are needed (least_size, least_galaxies)")  # fmt: skip
        return cls(planes, np.array(sizes), np.array(widths), np.array(strengths))


def _signal_to_noise(planes: NDArray[np.float32], r50_px: float) -> float:
    """Measure the middle band inside the half-light radius."""
    plane, sky = planes[len(planes) // 2], sky_noise(planes)[len(planes) // 2]
    y, x = np.mgrid[: plane.shape[0], : plane.shape[1]] - (np.array(plane.shape)[:, None, None] - 1) / 2
    inside = np.hypot(x, y) <= max(r50_px, 1.0)
    return float(plane[inside].sum() / (sky * np.sqrt(inside.sum())))


def _degraded(
    cutouts: _Cutouts,
    how: Degradation,
    preparation: Preparation,
    seed: int,
    pool: Executor,  # noqa: ARG001
) -> Pictures:
    made = (degrade(planes, how, float(width), seed + row)
            for row, (planes, width) in enumerate(zip(cutouts.planes, cutouts.psf_px, strict=True)))  # fmt: skip
    return np.stack([prepare_cutout(planes, preparation) for planes in made])
