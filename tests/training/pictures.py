"""Galaxies that a small network can tell apart."""

from __future__ import annotations

import numpy as np

SIZE = 32


def pictures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw round blobs and elongated ones: uint8 (n, 32, 32, 3) and whether each is elongated."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    elongated = rng.random(n) < 0.5
    angle = rng.uniform(0, np.pi, n)[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    axis = np.where(elongated, 0.25, 0.9)[:, None, None]
    radius2 = (along / 5.0) ** 2 + (across / (5.0 * axis)) ** 2
    colour = rng.uniform(0.6, 1.0, (n, 1, 1, 3))
    light = 220 * np.exp(-radius2)[..., None] * colour + rng.normal(12, 4, (n, SIZE, SIZE, 3))
    return np.clip(light, 0, 255).astype(np.uint8), elongated
