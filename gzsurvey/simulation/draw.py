"""Galaxies in three bands before the atmosphere: many at a time, on an oversampled grid.

Letters: B galaxies of a batch, n pixels on a side. Bands are g, r, z. Each galaxy is the
same bit for bit whichever others share its batch: every operation is done pixel by pixel
or galaxy by galaxy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gzsurvey.simulation import structure
from gzsurvey.simulation.population import EDGE_ON_DEG
from gzsurvey.simulation.profiles import (
    Planes,
    Sky,
    core_coordinates,
    fade,
    normalised,
    sersic,
    sky_coordinates,
    with_core,
)
from gzsurvey.simulation.structure import SHARE, Disk

EXTINCTION = np.array([1.25, 1.0, 0.6], dtype=np.float32)
"""Optical depth of dust in g, r and z, relative to r."""
BATCH = 8
"""Galaxies drawn together: half a megabyte a plane at 128 pixels, which a core's cache holds."""

Galaxies = NDArray[np.void]


def draw(galaxies: Galaxies, size: int, step_arcsec: NDArray[np.float64]) -> Planes:
    """Draw galaxies as they are above the atmosphere, centred on pixel ``size // 2``.

    Parameters
    ----------
    galaxies : structured array of dtype `population.GALAXY`, shape (B,)
        Companions are separate galaxies.
    size : int
        Pixels on a side.
    step_arcsec : float, shape (B,)
        Pixel scale of each galaxy's grid.

    Returns
    -------
    float32, shape (B, 3, n, n)
        Nanomaggies per pixel in g, r, z; row 0 in the south, column 0 in the east.
    """
    step = step_arcsec / galaxies["r_major"]
    sky = sky_coordinates(galaxies, size, step)
    flux = _component_flux(galaxies)
    light = np.zeros((len(galaxies), 3, size, size), dtype=np.float32)
    edge = fade(sky)
    canvas = _Canvas(galaxies, sky, edge, flux, light)
    side = galaxies["inclination"] > EDGE_ON_DEG
    has_disk = galaxies["share"][:, [SHARE["disk"], SHARE["young"]]].sum(axis=1) > 0
    canvas.face_on(np.flatnonzero(has_disk & ~side))
    canvas.side_on(np.flatnonzero(has_disk & side))
    canvas.bulges(step)
    canvas.dust()
    canvas.add("tail", np.flatnonzero(galaxies["share"][:, SHARE["tail"]] > 0), structure.tail)
    return light


def _component_flux(galaxies: Galaxies) -> NDArray[np.float32]:
    """Nanomaggies of every component in every band; shape (B, components, 3)."""
    total = 10 ** (-0.4 * (galaxies["mag_r"] - 22.5))
    in_r = galaxies["share"] * total[:, None]
    bands = [in_r * 10 ** (-0.4 * galaxies["g_r"]), in_r, in_r * 10 ** (0.4 * galaxies["r_z"])]
    return np.stack(bands, axis=-1).astype(np.float32)


class _Canvas:
    """Light of a batch, to which components are added."""

    def __init__(self, galaxies: Galaxies, sky: Sky, edge: Planes, flux: NDArray[np.float32], light: Planes) -> None:
        self.galaxies, self.sky, self.edge, self.flux, self.light = galaxies, sky, edge, flux, light
        self.depth: list[tuple[NDArray[np.intp], Planes]] = []

    def part(self, index: NDArray[np.intp]) -> Sky:
        return Sky(self.sky.along[index], self.sky.across[index])

    def put(self, component: str, index: NDArray[np.intp], planes: Planes) -> None:
        planes *= self.edge[index]
        normalised(planes)
        weight = self.flux[index, SHARE[component]]
        for i, plane, by_band in zip(index, planes, weight, strict=True):
            for band in range(3):
                self.light[i, band] += plane * by_band[band]

    def add(self, component: str, index: NDArray[np.intp], function: Callable[[Galaxies, Sky], Planes]) -> None:
        if len(index):
            self.put(component, index, function(self.galaxies[index], self.part(index)))

    def face_on(self, index: NDArray[np.intp]) -> None:
        if not len(index):
            return
        galaxies = self.galaxies[index]
        disk = structure.face_on(galaxies, self.part(index))
        functions: dict[str, Callable[[Galaxies, Disk], Planes]] = {
            "disk": structure.old_disk,
            "young": structure.young_disk,
            "ring": structure.ring,
            "bar": structure.bar,
        }
        for component, function in functions.items():
            own = np.flatnonzero(galaxies["share"][:, SHARE[component]] > 0)
            if len(own):
                self.put(component, index[own], function(galaxies[own], _take(disk, own)))
        self._points(index)
        dusty = np.flatnonzero((galaxies["dust"] > 0) & (galaxies["arm_count"] > 0))
        if len(dusty):
            self.depth.append((index[dusty], structure.arm_dust(galaxies[dusty], _take(disk, dusty))))

    def side_on(self, index: NDArray[np.intp]) -> None:
        if not len(index):
            return
        thin, thick = 0.55 * structure.SCALE_HEIGHT, structure.SCALE_HEIGHT
        for component, height in (("disk", thick), ("young", thin), ("bar", thick), ("ring", thin)):
            own = index[self.galaxies["share"][index, SHARE[component]] > 0]
            if len(own):
                self.put(component, own, structure.side_disk(self.galaxies[own], self.part(own), height))
        self._points(index)
        dusty = index[self.galaxies["dust"][index] > 0]
        if len(dusty):
            self.depth.append((dusty, structure.side_dust(self.galaxies[dusty], self.part(dusty))))

    def _points(self, index: NDArray[np.intp]) -> None:
        size = self.light.shape[-1]
        own = index[self.galaxies["share"][index, SHARE["points"]] > 0]
        if len(own):
            # Rows 0 and 1 of a column are one pixel apart: the grid's step in half-light radii.
            rows = (self.sky.along[own, 1, 0] - self.sky.along[own, 0, 0]).astype(np.float64)
            columns = (self.sky.across[own, 1, 0] - self.sky.across[own, 0, 0]).astype(np.float64)
            steps = np.hypot(rows, columns)
            drawn = [structure.points(self.galaxies[i], size, step) for i, step in zip(own, steps, strict=True)]
            self.put("points", own, np.stack(drawn))

    def bulges(self, step: NDArray[np.float64]) -> None:
        has_bulge = self.galaxies["share"][:, SHARE["bulge"]] > 0
        boxy = self.galaxies["bulge_power"] != 2.0
        for index in (np.flatnonzero(has_bulge & boxy), np.flatnonzero(has_bulge & ~boxy)):
            if len(index):
                galaxies = self.galaxies[index]
                core = sersic(galaxies, core_coordinates(galaxies, step[index]))
                self.put("bulge", index, with_core(sersic(galaxies, self.part(index)), core))

    def dust(self) -> None:
        """Absorb light where dust lies; what is left carries the galaxy's whole flux."""
        for index, depth in self.depth:
            for band in range(3):
                dimmed = self.light[index, band]
                before = dimmed.reshape(len(index), -1).sum(axis=1)
                dimmed *= np.exp(-EXTINCTION[band] * depth)
                after = dimmed.reshape(len(index), -1).sum(axis=1)
                self.light[index, band] = dimmed * (before / np.maximum(after, 1e-20))[:, None, None]


def _take(disk: Disk, index: NDArray[np.intp]) -> Disk:
    return Disk(
        disk.x[index],
        disk.y[index],
        disk.radius[index],
        disk.angle[index],
        disk.spiral_angle[index],
        disk.texture[index],
        disk.arms[index],
    )
