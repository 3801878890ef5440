"""What makes a galaxy more than smooth: disks, arms, rings, bars, dust, clumps, tails.

Every function takes B galaxies and returns float32 planes (B, n, n) that still need a
total flux. Lengths are in units of the half-light radius along the major axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.simulation.population import COMPONENTS, EDGE_ON_DEG
from gzsurvey.simulation.profiles import Planes, Sky, column

SCALE_LENGTH = 1.0 / 1.678
"""Of an exponential disk, in half-light radii."""
SCALE_HEIGHT = 0.10
"""Of a disk seen from the side."""
TEXTURE_SHAPE = (36, 64)
"""Cells of a texture: in the logarithm of the radius, and around the galaxy."""
_TEXTURE_START, _TEXTURE_STEP = float(np.log(0.08)), 0.13
_HII_REGIONS = 90
_POINTS_PER_CLUMP = 14


@dataclass(frozen=True)
class Disk:
    """B disks seen face on: polar coordinates, arms and texture of every pixel."""

    x: Planes
    y: Planes
    radius: Planes
    angle: Planes
    """From the major axis, growing clockwise on the sky (north up, east left)."""
    spiral_angle: Planes
    """`angle`, wound back so that an arm keeps the same value along its length."""
    texture: Planes
    """Smoothed noise, wound like the arms."""
    arms: Planes
    """1 on the ridge of an arm; between arms near 0; 0 where there are none."""


def face_on(galaxies: NDArray[np.void], sky: Sky) -> Disk:
    """Deproject disks and find their arms."""
    ratio = np.where(galaxies["axis_ratio"] > 0, galaxies["axis_ratio"], 1.0)
    x, y = sky.along, sky.across / column(ratio)
    radius = np.sqrt(x * x + y * y) + np.float32(1e-3)
    angle = np.arctan2(y, x)
    radius *= 1 + column(galaxies["lopsidedness"]) * np.cos(angle - column(galaxies["tail_phase"]))
    log_radius = np.log(radius)
    pitch = np.radians(np.where(galaxies["arm_pitch"] > 0, galaxies["arm_pitch"], 90.0))
    winding = column(galaxies["handedness"] / np.tan(pitch))
    spiral_angle = angle - winding * log_radius - column(galaxies["arm_phase"])
    texture = sample_textures(
        galaxies["texture_seed"],
        (log_radius - np.float32(_TEXTURE_START)) / np.float32(_TEXTURE_STEP),
        spiral_angle * np.float32(TEXTURE_SHAPE[1] / (2 * np.pi)),
    )
    arms = _arms(galaxies, radius, spiral_angle, texture)
    return Disk(x, y, radius, angle, spiral_angle, texture, arms)


def sample_textures(seeds: NDArray[np.int64], rows: Planes, columns: Planes) -> Planes:
    """Bilinear samples of one noise texture per galaxy, periodic in columns.

    Parameters
    ----------
    seeds : int64, shape (B,)
        One texture each.
    rows, columns : float32, shape (B, n, n)
        In cells of the texture.
    """
    height, width = TEXTURE_SHAPE
    noise = [np.random.default_rng([int(seed), 1]).standard_normal(TEXTURE_SHAPE, dtype=np.float32) for seed in seeds]
    flat = np.stack(noise).ravel()
    rows = np.clip(rows, 0, height - 1.001)
    row0, column0 = np.floor(rows), np.floor(columns)
    down, right = rows - row0, columns - column0
    first = row0.astype(np.int32) * width + (np.arange(len(seeds), dtype=np.int32) * height * width)[:, None, None]
    left = column0.astype(np.int32) % width
    next_left = (left + 1) % width
    upper = flat.take(first + left) * (1 - right) + flat.take(first + next_left) * right
    first += width
    lower = flat.take(first + left) * (1 - right) + flat.take(first + next_left) * right
    value = upper * (1 - down) + lower * down
    return value.astype(np.float32, copy=False)


def _arms(galaxies: NDArray[np.void], radius: Planes, spiral_angle: Planes, texture: Planes) -> Planes:
    count = column(galaxies["arm_count"])
    waves = np.cos(count * spiral_angle + np.float32(0.55) * texture)
    ridge = np.exp(column(galaxies["arm_sharpness"]) * (waves - 1))
    uneven = 1 + np.float32(0.35) * np.cos(spiral_angle + column(galaxies["tail_phase"]))
    start = column(np.maximum(0.8 * galaxies["bar_length"], 0.22))
    inner = np.clip((radius - start) / np.float32(0.35), 0, 1)
    outer = 1 / (1 + (radius / np.float32(2.9)) ** 6)
    arms: Planes = ridge * uneven * inner * outer * (count > 0)
    return arms


def old_disk(galaxies: NDArray[np.void], disk: Disk) -> Planes:
    """Exponential disk, a little brighter along the arms, ending at its break."""
    beyond = np.maximum(disk.radius - column(galaxies["break_radius"]), 0)
    smooth = np.exp(-disk.radius / np.float32(SCALE_LENGTH) - beyond / np.float32(0.35))
    planes: Planes = smooth * (1 + np.float32(0.7) * column(galaxies["arm_strength"]) * (disk.arms - np.float32(0.3)))
    return np.maximum(planes, 0)


def young_disk(galaxies: NDArray[np.void], disk: Disk) -> Planes:
    """Young stars: arms, and the patches between them."""
    beyond = np.maximum(disk.radius - column(galaxies["break_radius"]), 0)
    smooth = np.exp(-disk.radius / np.float32(1.25 * SCALE_LENGTH) - beyond / np.float32(0.35))
    patchy = np.exp(column(galaxies["flocculence"]) * disk.texture)
    planes: Planes = (
        smooth * patchy * (np.float32(0.22) + np.float32(1.9) * column(galaxies["arm_strength"]) * disk.arms)
    )
    return planes


def ring(galaxies: NDArray[np.void], disk: Disk) -> Planes:
    """A ring in the disk, brighter here and fainter there."""
    offset = (disk.radius - column(galaxies["ring_radius"])) / column(galaxies["ring_width"])
    planes: Planes = np.exp(np.float32(-0.5) * offset * offset + np.float32(0.35) * disk.texture)
    return planes


def bar(galaxies: NDArray[np.void], disk: Disk) -> Planes:
    """A bar in the disk: flat inside, falling steeply at its end."""
    angle = np.radians(galaxies["bar_pa"])
    cosine, sine = column(np.cos(angle)), column(np.sin(angle))
    length = column(galaxies["bar_length"])
    along = np.abs(disk.x * cosine + disk.y * sine) / length
    across = np.abs(disk.y * cosine - disk.x * sine) / (length * column(galaxies["bar_axis_ratio"]))
    distance = along**3 + across**2
    planes: Planes = np.exp(-distance * np.sqrt(distance) - np.float32(0.6) * along)
    return planes


def side_disk(galaxies: NDArray[np.void], sky: Sky, height: float) -> Planes:
    """A disk seen from the side, with its warp and uneven light."""
    along = sky.along
    bend = column(galaxies["warp"]) * along * np.maximum(np.abs(along) - 1, 0) * np.float32(0.5)
    across = (sky.across - bend) / np.float32(height)
    far = np.sqrt(along * along + np.float32(0.01))
    beyond = np.maximum(far - column(galaxies["break_radius"]), 0)
    tall = np.exp(-np.minimum(np.abs(across), 40) * np.float32(2))
    texture = sample_textures(
        galaxies["texture_seed"], sky.across * np.float32(30) + np.float32(18), along * np.float32(9)
    )
    radial = np.exp(-far / np.float32(SCALE_LENGTH) - beyond / np.float32(0.3) + np.float32(0.25) * texture)
    planes: Planes = radial * 4 * tall / (1 + tall) ** 2
    return planes


def side_dust(galaxies: NDArray[np.void], sky: Sky) -> Planes:
    """Optical depth in r of the lane of a disk seen from the side."""
    across = (sky.across - column(galaxies["warp"]) * np.float32(0.15)) / np.float32(0.045)
    depth: Planes = column(1.4 * galaxies["dust"]) * np.exp(
        np.float32(-0.5) * across * across - np.abs(sky.along) / np.float32(0.9)
    )
    return depth


def arm_dust(galaxies: NDArray[np.void], disk: Disk) -> Planes:
    """Optical depth in r of the lanes on the inner edges of arms, more on the near side."""
    count = column(galaxies["arm_count"])
    shifted = count * disk.spiral_angle + np.float32(0.9) * column(galaxies["handedness"])
    lane = np.exp(np.float32(4) * (np.cos(shifted) - 1) + np.float32(0.4) * disk.texture)
    tilt = column(np.sin(np.radians(galaxies["inclination"])))
    near = 1 + tilt * disk.y / (disk.radius + np.float32(0.3))
    fall = np.exp(-disk.radius / np.float32(1.3)) * np.clip(disk.radius / np.float32(0.4), 0, 1)
    depth: Planes = column(galaxies["dust"]) * np.float32(0.5) * near * fall * lane
    return np.maximum(depth, 0)


def tail(galaxies: NDArray[np.void], sky: Sky) -> Planes:
    """Tidal tails: one long arm, and a fainter one on the other side."""
    radius = np.sqrt(sky.along**2 + sky.across**2) + np.float32(1e-3)
    angle = np.arctan2(sky.across, sky.along) - column(galaxies["tail_phase"]) - np.float32(0.8) * np.log(radius)
    length = column(galaxies["tail_length"])
    reach = (radius - 1 - length * np.float32(0.4)) / (np.float32(0.35) + length * np.float32(0.5))
    sides = np.exp(7 * (np.cos(angle) - 1)) + np.float32(0.35) * np.exp(5 * (-np.cos(angle) - 1))
    planes: Planes = sides * np.exp(-reach * reach) * np.clip(radius - np.float32(0.5), 0, 1)
    return planes


def points(galaxy: np.void, size: int, step: float) -> Planes:
    """Star-forming regions of one galaxy, too small to have a shape; shape (n, n)."""
    rng = np.random.default_rng([int(galaxy["texture_seed"]), 3])
    clumps = int(galaxy["clumps"])
    x, y, flux = _positions(galaxy, rng, _HII_REGIONS + clumps)
    spread = rng.uniform(0.02, 0.11, clumps)[:, None]
    near_x = x[:clumps, None] + spread * rng.standard_normal((clumps, _POINTS_PER_CLUMP))
    near_y = y[:clumps, None] + spread * rng.standard_normal((clumps, _POINTS_PER_CLUMP))
    bright = np.repeat(6 * flux[:clumps] / _POINTS_PER_CLUMP, _POINTS_PER_CLUMP)
    along = np.concatenate([near_x.ravel(), x[clumps:]])
    across = np.concatenate([near_y.ravel(), y[clumps:]])
    if galaxy["inclination"] > EDGE_ON_DEG:
        across = np.clip(0.5 * SCALE_HEIGHT * rng.standard_normal(len(across)), -0.3, 0.3)
    else:
        across = across * galaxy["axis_ratio"]
    angle = np.radians(galaxy["pa"])
    north = along * np.cos(angle) + across * np.sin(angle)
    west = across * np.cos(angle) - along * np.sin(angle)
    weights = np.concatenate([bright, flux[clumps:]])
    return _spread(west / step + size // 2, north / step + size // 2, weights, size)


def _positions(
    galaxy: np.void, rng: np.random.Generator, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    radius = np.clip(1.1 * SCALE_LENGTH * rng.gamma(2.2, 1.0, count), 0.2, 3.0)
    angle = rng.uniform(0, 2 * np.pi, count)
    arms = int(galaxy["arm_count"])
    if arms > 0:
        on_arm = (2 * np.pi * rng.integers(arms, size=count) + rng.normal(0, 0.55, count)) / arms
        winding = galaxy["handedness"] * np.log(radius) / np.tan(np.radians(galaxy["arm_pitch"]))
        angle = np.where(rng.random(count) < 0.8, on_arm + winding + galaxy["arm_phase"], angle)
    flux = rng.lognormal(0.0, 0.9, count)
    return radius * np.cos(angle), radius * np.sin(angle), flux


def _spread(x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64], size: int) -> Planes:
    """Share point sources between the four nearest pixels."""
    inside = (x > 0) & (x < size - 1) & (y > 0) & (y < size - 1)
    x, y, flux = x[inside], y[inside], flux[inside]
    left, low = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, up = x - left, y - low
    index = low * size + left
    where = np.concatenate([index, index + 1, index + size, index + size + 1])
    share = np.concatenate([(1 - right) * (1 - up), right * (1 - up), (1 - right) * up, right * up])
    grid = np.bincount(where, weights=np.tile(flux, 4) * share, minlength=size * size)
    return grid.reshape(size, size).astype(np.float32)


SHARE = {name: i for i, name in enumerate(COMPONENTS)}
"""Column of each component in a galaxy's `share`."""
