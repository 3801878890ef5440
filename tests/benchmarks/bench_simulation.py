"""Stamps per second on one core, beside GalSim drawing one by one.

Run with ``OMP_NUM_THREADS=1 python tests/benchmarks/bench_simulation.py``.
"""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime

import numpy as np
import pytest
import scipy

from gzsurvey.recipes.simulation import Region, load_simulation_recipe
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.population import population
from gzsurvey.simulation.render import render
from gzsurvey.simulation.stamps import stamps

galsim = pytest.importorskip("galsim")
SIDE_PX = 64


def with_galsim(galaxy: np.void, region: Region, rng: np.random.Generator) -> None:
    """The same galaxy in GalSim's words: bulge, disk, a spiral as 90 knots; three 64-px stamps."""
    flux = 10 ** (-0.4 * (float(galaxy["mag_r"]) - 22.5))
    q = float(np.clip(galaxy["axis_ratio"], 0.15, 1.0))
    index = round(float(np.clip(galaxy["bulge_n"], 0.5, 4.5)), 2)
    bulge = galsim.Sersic(n=index, half_light_radius=max(0.2 * float(galaxy["r50"]), 0.1), flux=0.3 * flux)
    disk = galsim.Exponential(half_light_radius=float(galaxy["r50"]), flux=0.6 * flux)
    knots = galsim.RandomKnots(
        90, half_light_radius=float(galaxy["r50"]), flux=0.1 * flux, rng=galsim.BaseDeviate(int(rng.integers(1, 2**31)))
    )
    whole = (bulge + disk + knots).shear(q=q, beta=float(galaxy["pa"]) * galsim.degrees)
    for fwhm in region.psf_fwhm_arcsec:
        seen = galsim.Convolve(whole, galsim.Moffat(beta=region.psf_beta, fwhm=fwhm))
        image = seen.drawImage(nx=SIDE_PX, ny=SIDE_PX, scale=region.pixel_scale_arcsec)
        image.addNoise(galsim.GaussianNoise(galsim.BaseDeviate(1), sigma=0.01))


def rates(count: int) -> dict[str, float]:
    """Galaxies per second of CPU time."""
    recipe = load_simulation_recipe("simulate")
    region = recipe.regions[0]
    galaxies: Galaxies = population(1, range(count))
    preparation = recipe.stamps.model_copy(update={"image_size": SIDE_PX})
    list(stamps(galaxies[:16], region, preparation))
    found = {}
    start = time.process_time()
    list(render(galaxies, region, np.zeros((count, 2))))
    found["galaxies drawn, convolved, on native pixels"] = count / (time.process_time() - start)
    start = time.process_time()
    list(stamps(galaxies, region, preparation))
    found["finished 64-px training stamps, with neighbours and noise"] = count / (time.process_time() - start)
    rng = np.random.default_rng(0)
    few = galaxies[: max(count // 8, 2)]
    start = time.process_time()
    for galaxy in few:
        with_galsim(galaxy, region, rng)
    found["GalSim, one by one"] = len(few) / (time.process_time() - start)
    return found


def test_stamps_are_faster_than_one_by_one() -> None:
    found = list(rates(32).values())
    assert found[1] > found[2]


if __name__ == "__main__":
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}")
    print(f"GalSim {galsim.__version__}")
    for what, rate in rates(400).items():
        print(f"{rate:8.1f}/s  {what}")
