"""Where images lie on the sky, and how much of a frame each covers."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

GRID = 8
"""A frame's coverage is counted on this many points a side."""

Corners = NDArray[np.float64]


def unit_vectors(ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating]) -> NDArray[np.float64]:
    """Unit vectors, shape (..., 3), of positions in degrees."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


class Outlines:
    """The four-cornered outlines of T images, searchable by position.

    Parameters
    ----------
    corners_deg : float64, shape (T, 4, 2)
        Right ascension and declination of the corners, in order around each image, degrees.
    """

    def __init__(self, corners_deg: Corners) -> None:
        self._corners = unit_vectors(corners_deg[..., 0], corners_deg[..., 1])
        centres = self._corners.sum(axis=1)
        self.centres: NDArray[np.float64] = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        chords = np.linalg.norm(self._corners - self.centres[:, None], axis=2)
        self.radius = chords.max(axis=1)
        self._tree = scipy.spatial.cKDTree(self.centres)

    def near(
        self, ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating], fov_arcsec: NDArray[np.floating]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Pairs of (field of view, image) that may touch, as two arrays of equal length."""
        reach = float(self.radius.max()) + np.radians(fov_arcsec / 3600)
        found = self._tree.query_ball_point(unit_vectors(ra_deg, dec_deg), reach, return_sorted=True)
        fields = np.repeat(np.arange(len(found)), [len(images) for images in found])
        images = np.array([image for images in found for image in images], dtype=np.intp)
        return fields.astype(np.intp), images

    def ranked(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], fov_arcsec: NDArray[np.float64]
    ) -> list[list[int]]:
        """Images that touch each field of view, by coverage, then by depth of the centre, then by order."""
        touched: list[list[int]] = [[] for _ in ra_deg]
        if len(ra_deg):
            fields, images = self.near(ra_deg, dec_deg, fov_arcsec)
            share, depth = self.coverage(images, ra_deg[fields], dec_deg[fields], fov_arcsec[fields])
            touching = np.flatnonzero(share > 0)
            keys = (images[touching], -depth[touching], -share[touching], fields[touching])
            order = touching[np.lexsort(keys)]
            for field, image in zip(fields[order].tolist(), images[order].tolist(), strict=True):
                touched[field].append(image)
        return touched

    def pairs(self) -> NDArray[np.intp]:
        """Pairs of images whose centres are closer than both radii together, shape (P, 2)."""
        found: NDArray[np.intp] = self._tree.query_pairs(2 * float(self.radius.max()), output_type="ndarray")
        apart = np.linalg.norm(self.centres[found[:, 0]] - self.centres[found[:, 1]], axis=1)
        close: NDArray[np.intp] = found[apart < self.radius[found].sum(axis=1)]
        return close

    def overlap(self, one: int, other: int) -> bool:
        """Whether a part of one image lies in the other."""
        return any(self._lies_in(*order) for order in ((one, other), (other, one)))

    def _lies_in(self, one: int, other: int) -> bool:
        steps = (np.arange(16) + 0.5) / 16
        v, u = (part[..., None] for part in np.meshgrid(steps, steps, indexing="ij"))
        a, b, c, d = self._corners[one]
        points = (a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + c * u) * v
        return bool((self._depth(np.array([other]), points.reshape(1, -1, 3)) > 0).any())

    def coverage(
        self,
        images: NDArray[np.intp],
        ra_deg: NDArray[np.floating],
        dec_deg: NDArray[np.floating],
        fov_arcsec: NDArray[np.floating],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How much of P fields of view their images cover.

        Returns
        -------
        share : float64, shape (P,)
            Of the field of view, 0 to 1.
        depth_rad : float64, shape (P,)
            Distance of the centre from the image's nearest edge; negative outside.
        """
        centre = unit_vectors(ra_deg, dec_deg)[:, None]
        depth = self._depth(images, centre)[:, 0]
        half = np.radians(np.asarray(fov_arcsec) / 3600) / 2
        share = (depth > half * np.sqrt(2)).astype(np.float64)
        near_edge = np.flatnonzero(np.abs(depth) <= half * np.sqrt(2))
        if near_edge.size:
            east, north = _axes(np.asarray(ra_deg)[near_edge], np.asarray(dec_deg)[near_edge])
            steps = (np.arange(GRID) + 0.5) * 2 / GRID - 1
            u, v = (part.ravel()[:, None] for part in np.meshgrid(steps, steps))
            offsets = (u * east + v * north) * half[near_edge, None, None]
            share[near_edge] = (self._depth(images[near_edge], centre[near_edge] + offsets) > 0).mean(axis=1)
        return share, depth

    def _depth(self, images: NDArray[np.intp], points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance of points (P, K, 3) from the nearest edge of P convex images; negative outside."""
        corners = self._corners[images]
        poles = np.cross(corners, np.roll(corners, -1, axis=1))
        poles /= np.linalg.norm(poles, axis=2, keepdims=True)
        poles *= np.sign(np.einsum("pkd,pd->pk", poles, self.centres[images]))[..., None]
        nearest: NDArray[np.float64] = np.einsum("pkd,pnd->pnk", poles, points).min(axis=2)
        return nearest


def _axes(
    ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors to the east and north of N positions, shape (N, 1, 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=-1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=-1)
    return east[:, None], north[:, None]
