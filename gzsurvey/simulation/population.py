"""Which galaxies there are: every number that describes one, drawn from its own seed.

A galaxy is one row of dtype `GALAXY`. Lengths inside a galaxy are in units of its
half-light radius along the major axis, light is in shares of its r-band flux.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

KINDS = ("elliptical", "lenticular", "spiral", "irregular", "merger", "star", "artifact")
KIND_SHARES = (0.24, 0.14, 0.44, 0.09, 0.09)
"""Of galaxies; about what Galaxy Zoo finds among bright, nearby ones."""
DISTURBANCES = ("none", "minor-disturbance", "major-disturbance", "merger")
COMPONENTS = ("bulge", "bar", "ring", "disk", "young", "points", "tail")
"""Parts that light is shared between; each has colours of its own."""
EDGE_ON_DEG = 80.0
"""Disks above this inclination are drawn as seen from the side."""
THICKNESS = 0.16
"""Axis ratio of a disk seen from the side."""

GALAXY = np.dtype(
    [
        ("id", "i8"),
        ("kind", "U10"),
        ("r50", "f8"),  # arcsec, circularised
        ("r_major", "f8"),  # arcsec, along the major axis
        ("mag_g", "f8"),
        ("mag_r", "f8"),
        ("mag_z", "f8"),
        ("redshift", "f8"),
        ("pa", "f8"),  # deg, north through east
        ("inclination", "f8"),  # deg, 90: edge-on; 0 where there is no disk
        ("axis_ratio", "f8"),  # apparent
        ("bulge_n", "f8"),  # Sersic index
        ("bulge_radius", "f8"),
        ("bulge_axis_ratio", "f8"),
        ("bulge_power", "f8"),  # 2: an ellipse; above: boxy
        ("break_radius", "f8"),  # where the disk ends
        ("lopsidedness", "f8"),
        ("warp", "f8"),
        ("bar_length", "f8"),  # half-length, 0: no bar
        ("bar_axis_ratio", "f8"),
        ("bar_pa", "f8"),  # deg from the major axis, in the disk
        ("arm_count", "i4"),  # 0: none
        ("arm_pitch", "f8"),  # deg
        ("arm_strength", "f8"),
        ("arm_sharpness", "f8"),
        ("arm_phase", "f8"),  # rad
        ("handedness", "i4"),  # +1: arms trail clockwise as seen on the sky, -1: anticlockwise, 0: none
        ("flocculence", "f8"),
        ("ring_radius", "f8"),  # 0: no ring
        ("ring_width", "f8"),
        ("clumps", "i4"),  # bright star-forming clumps
        ("dust", "f8"),  # optical depth of the lane in r
        ("tail_length", "f8"),  # 0: no tidal tail
        ("tail_phase", "f8"),  # rad
        ("companion_ratio", "f8"),  # flux over this galaxy's; 0: no companion
        ("companion_separation", "f8"),
        ("companion_pa", "f8"),  # deg, north through east
        ("disturbance", "i4"),  # index in DISTURBANCES
        ("texture_seed", "i8"),
        ("share", "f8", (len(COMPONENTS),)),
        ("g_r", "f8", (len(COMPONENTS),)),
        ("r_z", "f8", (len(COMPONENTS),)),
    ]
)

OLD = {"bulge": (0.80, 0.68), "bar": (0.76, 0.63), "disk": (0.62, 0.50)}
"""g-r and r-z of light from old stars, at redshift 0, in an early-type galaxy."""
YOUNG = {"ring": (0.42, 0.32), "young": (0.30, 0.20), "points": (0.08, -0.05), "tail": (0.48, 0.36)}


def population(seed: int, ids: Iterable[int]) -> NDArray[np.void]:
    """Draw galaxies, each from its own seed.

    Parameters
    ----------
    seed : int
        The survey's.
    ids : iterable of int
        Non-negative ids; a galaxy depends on its own id and `seed` alone.

    Returns
    -------
    structured array of dtype `GALAXY`, shape (N,)
    """
    ids = list(ids)
    rows = np.zeros(len(ids), dtype=GALAXY)
    for row, number in zip(rows, ids, strict=True):
        rng = np.random.default_rng([seed, number])
        row["id"] = number
        row["texture_seed"] = rng.integers(2**62)
        _draw(row, rng, str(rng.choice(KINDS[:5], p=KIND_SHARES)))
    return rows


def companion(galaxy: np.void) -> NDArray[np.void]:
    """Return the galaxy that `galaxy` is merging with, placed at the same position."""
    row = np.zeros(1, dtype=GALAXY)
    rng = np.random.default_rng([int(galaxy["texture_seed"]), 2])
    row["texture_seed"] = rng.integers(2**62)
    _draw(row[0], rng, str(rng.choice(["elliptical", "spiral"], p=[0.4, 0.6])))
    ratio = float(galaxy["companion_ratio"])
    scale = float(galaxy["r50"]) * max(ratio, 0.05) ** 0.4 / float(row["r50"][0])
    fainter = float(galaxy["mag_r"]) - 2.5 * np.log10(ratio) - float(row["mag_r"][0])
    row["r50"] *= scale
    row["r_major"] *= scale
    for band in ("mag_g", "mag_r", "mag_z"):
        row[band] += fainter
    row["companion_ratio"] = 0.0
    row["tail_length"] = 0.0
    return row


def _draw(row: np.void, rng: np.random.Generator, kind: str) -> None:
    body = kind
    if kind == "merger":
        body = str(rng.choice(["spiral", "elliptical", "irregular"], p=[0.65, 0.2, 0.15]))
    row["kind"] = kind
    row["pa"] = rng.uniform(0, 180)
    row["bulge_power"] = 2.0
    row["break_radius"] = 9.0
    late = {"elliptical": 0.0, "lenticular": 0.1, "irregular": 1.0}.get(body, float(rng.beta(1.5, 1.3)))
    if body == "elliptical":
        _elliptical(row, rng)
    else:
        _disk(row, rng, late, body)
    if body == "irregular":
        _irregular(row, rng)
    _disturb(row, rng, kind)
    _shares(row, rng, body, late)
    _size_and_light(row, rng, body)


def _elliptical(row: np.void, rng: np.random.Generator) -> None:
    row["axis_ratio"] = np.clip(1.0 - abs(rng.normal(0, 0.28)), 0.35, 1.0)
    row["bulge_n"] = rng.uniform(2.2, 4.8)
    row["bulge_radius"] = 1.0
    row["bulge_axis_ratio"] = row["axis_ratio"]
    row["bulge_power"] = rng.normal(2.0, 0.12)


def _disk(row: np.void, rng: np.random.Generator, late: float, body: str) -> None:
    cosine = rng.uniform(0.0, 1.0) ** 0.85
    row["inclination"] = np.degrees(np.arccos(cosine))
    row["axis_ratio"] = np.sqrt(cosine**2 * (1 - THICKNESS**2) + THICKNESS**2)
    row["bulge_n"] = np.clip(rng.normal(3.0 - 1.8 * late, 0.4), 0.8, 4.0)
    row["bulge_radius"] = rng.uniform(0.12, 0.28) * (1.4 - 0.7 * late)
    face_on = rng.uniform(0.65, 0.95)
    row["bulge_axis_ratio"] = face_on + (1 - face_on) * cosine
    if row["inclination"] > EDGE_ON_DEG:
        row["bulge_axis_ratio"] = rng.uniform(0.5, 0.85)
        row["bulge_power"] = rng.uniform(2.8, 4.0) if rng.random() < 0.3 else 2.0
    row["break_radius"] = rng.uniform(2.0, 4.5)
    row["lopsidedness"] = abs(rng.normal(0, 0.10 + 0.08 * late))
    row["warp"] = rng.normal(0, 0.07)
    row["dust"] = max(0.0, rng.normal(0.7, 0.5)) if body == "spiral" else max(0.0, rng.normal(-0.3, 0.5))
    _bar_and_ring(row, rng, late, body)
    if body == "spiral":
        _arms(row, rng, late)


def _bar_and_ring(row: np.void, rng: np.random.Generator, late: float, body: str) -> None:
    if rng.random() < (0.42 if body == "spiral" else 0.28):
        row["bar_length"] = rng.uniform(0.45, 1.05) * (1.1 - 0.3 * late)
        row["bar_axis_ratio"] = rng.uniform(0.22, 0.5)
        row["bar_pa"] = rng.uniform(0, 180)
    if rng.random() < (0.26 if body == "spiral" else 0.30):
        inner = row["bar_length"] > 0 and rng.random() < 0.6
        row["ring_radius"] = row["bar_length"] * 1.08 if inner else rng.uniform(0.9, 2.1)
        row["ring_width"] = row["ring_radius"] * rng.uniform(0.10, 0.22)


def _arms(row: np.void, rng: np.random.Generator, late: float) -> None:
    row["arm_count"] = rng.choice([0, 1, 2, 3, 4, 5, 6], p=[0.06, 0.07, 0.49, 0.17, 0.12, 0.06, 0.03])
    row["handedness"] = 0 if row["arm_count"] == 0 else rng.choice([-1, 1])
    row["arm_pitch"] = np.clip(rng.normal(11 + 17 * late, 5), 5, 42)
    row["arm_strength"] = rng.uniform(0.4, 1.5)
    row["arm_sharpness"] = rng.uniform(1.0, 3.0)
    row["arm_phase"] = rng.uniform(0, 2 * np.pi)
    row["flocculence"] = rng.uniform(0.25, 0.7) + 0.3 * late
    row["clumps"] = rng.poisson(4 + 16 * late)


def _irregular(row: np.void, rng: np.random.Generator) -> None:
    row["bar_length"] = row["ring_radius"] = row["ring_width"] = 0.0
    row["dust"] = 0.0
    row["flocculence"] = rng.uniform(0.7, 1.2)
    row["lopsidedness"] = rng.uniform(0.2, 0.5)
    row["clumps"] = 2 + rng.poisson(9)


def _disturb(row: np.void, rng: np.random.Generator, kind: str) -> None:
    level = rng.random()
    if kind == "merger":
        row["disturbance"] = 3 if level < 0.6 else 2
        row["companion_ratio"] = rng.uniform(0.15, 1.0) if level < 0.75 else 0.0
        row["tail_length"] = rng.uniform(1.5, 3.5) if level > 0.35 else rng.uniform(0, 1.5)
        row["lopsidedness"] = rng.uniform(0.2, 0.55)
    elif level < 0.09:
        row["disturbance"] = 1
        row["lopsidedness"] = rng.uniform(0.2, 0.4)
        row["tail_length"] = rng.uniform(0.8, 1.8) if rng.random() < 0.5 else 0.0
    row["tail_phase"] = rng.uniform(0, 2 * np.pi)
    row["companion_separation"] = rng.uniform(0.7, 3.0)
    row["companion_pa"] = rng.uniform(0, 360)


def _shares(row: np.void, rng: np.random.Generator, body: str, late: float) -> None:
    share = dict.fromkeys(COMPONENTS, 0.0)
    if body == "elliptical":
        share["bulge"] = 1.0
    elif body == "irregular":
        share |= {"disk": 0.35, "young": 0.5, "points": rng.uniform(0.08, 0.25), "bulge": 0.02}
    else:
        bulge = np.clip(rng.normal(0.42 * (1 - late) ** 1.5 + 0.04, 0.06), 0.0, 0.65)
        young = np.clip(rng.normal(0.25 + 0.4 * late, 0.08), 0.1, 0.75) if body == "spiral" else 0.03
        rest = 1.0 - bulge
        points = rng.uniform(0.01, 0.05) * (0.3 + late) if body == "spiral" else 0.0
        share |= {"bulge": bulge, "young": rest * young, "points": rest * points, "disk": rest * (1 - young)}
        share["bar"] = rng.uniform(0.06, 0.22) * rest if row["bar_length"] > 0 else 0.0
        share["ring"] = rng.uniform(0.08, 0.25) * rest if row["ring_radius"] > 0 else 0.0
    share["tail"] = rng.uniform(0.05, 0.14) * min(1.0, float(row["tail_length"])) if row["tail_length"] > 0 else 0.0
    total = sum(share.values())
    row["share"] = [share[name] / total for name in COMPONENTS]
    row["redshift"] = np.clip(rng.gamma(4.0, 0.018), 0.01, 0.18)
    dust_reddening = 0.12 * row["inclination"] / 90 if body == "spiral" else 0.0
    for i, name in enumerate(COMPONENTS):
        g_r, r_z = (OLD | YOUNG)[name]
        older = 0.16 * late if name in OLD else 0.12 * late - 0.06
        row["g_r"][i] = g_r - older + 1.6 * row["redshift"] + dust_reddening + rng.normal(0, 0.04)
        row["r_z"][i] = r_z - 0.8 * older + 0.7 * row["redshift"] + dust_reddening + rng.normal(0, 0.04)


def _size_and_light(row: np.void, rng: np.random.Generator, body: str) -> None:
    row["r50"] = np.clip(np.exp(rng.normal(np.log(3.1), 0.42)), 1.2, 9.0)
    brightness = {"elliptical": 20.6, "lenticular": 20.8, "spiral": 21.3}.get(body, 22.2)
    mean_sb = rng.normal(brightness, 0.55) - 0.4 * np.log(row["r50"] / 3.1)
    row["mag_r"] = np.clip(mean_sb - 2.5 * np.log10(2 * np.pi * row["r50"] ** 2), 13.5, 19.0)
    share = row["share"]
    row["mag_g"] = row["mag_r"] - 2.5 * np.log10((share * 10 ** (-0.4 * row["g_r"])).sum())
    row["mag_z"] = row["mag_r"] - 2.5 * np.log10((share * 10 ** (0.4 * row["r_z"])).sum())
    row["r_major"] = row["r50"] / np.sqrt(max(float(row["axis_ratio"]), 0.2))
