"""GalSim is the reference: profiles, PSF and fluxes agree to 1 %."""

from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.recipes.simulation import Region, load_simulation_recipe
from gzsurvey.simulation.draw import Galaxies, draw
from gzsurvey.simulation.population import COMPONENTS, GALAXY, population
from gzsurvey.simulation.psf import Moffat, transfer_grid
from gzsurvey.simulation.render import grid_of, render

galsim = pytest.importorskip("galsim")


@pytest.fixture(scope="module")
def region() -> Region:
    return load_simulation_recipe("simulate").regions[0]


def smooth_galaxy(component: str, index: float, r50: float, axis_ratio: float) -> Galaxies:
    rows = np.zeros(1, dtype=GALAXY)
    rows["kind"], rows["r50"], rows["r_major"] = "elliptical", r50 * np.sqrt(axis_ratio), r50
    rows["mag_r"], rows["axis_ratio"], rows["pa"] = 16.0, axis_ratio, 35.0
    rows["bulge_n"], rows["bulge_radius"], rows["bulge_axis_ratio"], rows["bulge_power"] = index, 1.0, axis_ratio, 2.0
    rows["break_radius"] = 99.0
    rows["share"][0, COMPONENTS.index(component)] = 1.0
    rows["g_r"], rows["r_z"] = 0.7, 0.5
    return rows


def reference(region: Region, index: float, r50: float, axis_ratio: float, shape: tuple[int, int]) -> np.ndarray:
    """What GalSim draws in r: the same profile, on the same pixels."""
    flux = 10 ** (-0.4 * (16.0 - 22.5))
    profile = galsim.Sersic(n=index, half_light_radius=r50 * np.sqrt(axis_ratio), flux=flux)
    # GalSim's angles run anticlockwise from the x axis, which points west here.
    profile = profile.shear(q=axis_ratio, beta=(90 + 35) * galsim.degrees)
    psf = galsim.Moffat(beta=region.psf_beta, fwhm=region.psf_fwhm_arcsec[1])
    image = galsim.Convolve(profile, psf).drawImage(
        nx=shape[1], ny=shape[0], scale=region.pixel_scale_arcsec, method="auto"
    )
    return np.asarray(image.array)


@pytest.mark.parametrize(
    ("component", "index", "r50", "axis_ratio"),
    [("bulge", 1.0, 3.0, 0.6), ("bulge", 2.5, 2.0, 0.8), ("disk", 1.0, 3.0, 0.7), ("bulge", 0.7, 1.5, 0.5)],
)
def test_profiles_agree_with_galsim(
    region: Region, component: str, index: float, r50: float, axis_ratio: float
) -> None:
    galaxy = smooth_galaxy(component, index, r50, axis_ratio)
    ours = next(render(galaxy, region, np.zeros((1, 2))))[1].planes[1]
    theirs = reference(region, index, r50, axis_ratio, ours.shape)
    half = ours.shape[0] // 2
    rows, columns = np.indices(ours.shape) - half
    inside = np.hypot(rows, columns) * region.pixel_scale_arcsec < 3 * r50
    share = theirs[inside].sum() / ours[inside].sum()
    assert share == pytest.approx(1.0, abs=0.01 if index <= 1 else 0.05)  # our galaxies end at 6 half-light radii
    assert np.abs(ours[inside] * share - theirs[inside]).max() < 0.01 * theirs.max()


def test_steep_profile_agrees_with_galsim_inside(region: Region) -> None:
    galaxy = smooth_galaxy("bulge", 4.0, 3.0, 0.8)
    ours = next(render(galaxy, region, np.zeros((1, 2))))[1].planes[1]
    theirs = reference(region, 4.0, 3.0, 0.8, ours.shape)
    half = ours.shape[0] // 2
    inside = np.hypot(*(np.indices(ours.shape) - half)) * region.pixel_scale_arcsec < 6.0
    scale = theirs[inside].sum() / ours[inside].sum()
    assert np.abs(ours[inside] * scale - theirs[inside]).max() < 0.01 * theirs.max()


def test_fluxes_are_the_magnitudes(region: Region) -> None:
    galaxies = population(3, range(40))
    alone = galaxies[galaxies["companion_ratio"] == 0]
    for row, image in render(alone, region, np.zeros((len(alone), 2))):
        expected = [10 ** (-0.4 * (alone[band][row] - 22.5)) for band in ("mag_g", "mag_r", "mag_z")]
        np.testing.assert_allclose(image.planes.sum(axis=(1, 2)), expected, rtol=0.01)


def test_psf_agrees_with_galsim() -> None:
    ours, theirs = Moffat(1.2, 3.5), galsim.Moffat(beta=3.5, fwhm=1.2)
    frequencies = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    expected = [theirs.kValue(2 * np.pi * k, 0.0).real for k in frequencies]
    np.testing.assert_allclose(ours.transfer(frequencies), expected, rtol=1e-3, atol=1e-5)


def test_psf_keeps_flux() -> None:
    assert transfer_grid(Moffat(1.2, 3.5), 64, 0.2, 0.262)[0, 0] == pytest.approx(1.0, abs=1e-5)


def test_a_shift_moves_the_centroid(region: Region) -> None:
    galaxy = smooth_galaxy("bulge", 1.0, 2.0, 1.0)
    for shift in ([0.0, 0.0], [0.4, -0.3]):
        image = next(render(galaxy, region, np.array([shift])))[1]
        rows, columns = np.indices(image.planes[1].shape)
        total = image.planes[1].sum()
        assert (columns * image.planes[1]).sum() / total == pytest.approx(image.centre[0], abs=0.01)
        assert (rows * image.planes[1]).sum() / total == pytest.approx(image.centre[1], abs=0.01)


def test_a_galaxy_does_not_depend_on_its_batch(region: Region) -> None:
    galaxies = population(5, range(24))
    shifts = np.random.default_rng(0).uniform(-0.5, 0.5, (24, 2))
    together = dict(render(galaxies, region, shifts))
    for i in range(24):
        alone = next(render(galaxies[i : i + 1], region, shifts[i : i + 1]))[1]
        np.testing.assert_array_equal(alone.planes, together[i].planes)


def test_mirrored_arms_are_the_other_handedness() -> None:
    galaxies = population(7, range(60))
    spiral = galaxies[(galaxies["kind"] == "spiral") & (galaxies["inclination"] < 40)][:1].copy()
    for name in ("pa", "bar_pa", "lopsidedness", "warp", "flocculence", "dust", "arm_phase", "tail_phase"):
        spiral[name] = 0.0
    spiral["bar_length"] = spiral["ring_radius"] = spiral["companion_ratio"] = 0.0
    spiral["arm_count"], spiral["arm_pitch"], spiral["arm_strength"], spiral["handedness"] = 2, 18.0, 1.2, 1
    spiral["share"] = 0.0
    spiral["share"][0, COMPONENTS.index("young")] = 1.0
    size, step = grid_of(float(spiral["r_major"][0]))
    clockwise = draw(spiral, size, np.array([step]))[0, 1, 1:, 1:]
    spiral["handedness"] = -1
    other = draw(spiral, size, np.array([step]))[0, 1, 1:, 1:]
    straight = np.corrcoef(clockwise.ravel(), other.ravel())[0, 1]
    mirrored = np.corrcoef(clockwise.ravel(), other[:, ::-1].ravel())[0, 1]
    assert mirrored > max(0.9, straight + 0.1)  # the texture on the arms stays as it is


def test_clockwise_arms_turn_clockwise_going_outwards() -> None:
    galaxies = population(7, range(60))
    spiral = galaxies[galaxies["kind"] == "spiral"][:1].copy()
    for name in ("pa", "lopsidedness", "warp", "flocculence", "dust", "arm_phase", "tail_phase", "inclination"):
        spiral[name] = 0.0
    spiral["bar_length"] = spiral["ring_radius"] = spiral["companion_ratio"] = 0.0
    spiral["arm_count"], spiral["arm_pitch"], spiral["arm_strength"], spiral["handedness"] = 1, 25.0, 1.5, 1
    spiral["axis_ratio"], spiral["r_major"] = 1.0, 3.0
    spiral["share"] = 0.0
    spiral["share"][0, COMPONENTS.index("young")] = 1.0
    planes = draw(spiral, 128, np.array([0.3]))[0, 1]
    rows, columns = np.indices(planes.shape) - 64
    radius, clockwise = np.hypot(rows, columns) * 0.3 / 3.0, np.arctan2(columns, rows)  # north up, west right
    directions = []
    for low in (0.7, 1.1):
        ring = (radius > low) & (radius < low + 0.2)
        directions.append(np.angle((planes[ring] * np.exp(1j * clockwise[ring])).sum()))
    turned = (directions[1] - directions[0] + np.pi) % (2 * np.pi) - np.pi
    expected = np.log(1.2 / 0.8) / np.tan(np.radians(25))
    assert turned == pytest.approx(expected, abs=0.35)
