"""Point spread functions: circular Moffat profiles and their Fourier transforms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma, kv


@dataclass(frozen=True, slots=True)
class Moffat:
    """A circular Moffat profile of unit flux."""

    fwhm_arcsec: float
    beta: float

    @property
    def alpha_arcsec(self) -> float:
        """Scale radius, arcsec."""
        return float(self.fwhm_arcsec / (2.0 * np.sqrt(2.0 ** (1.0 / self.beta) - 1.0)))

    def transfer(self, frequency: NDArray[np.floating]) -> NDArray[np.float64]:
        """Fourier transform.

        Parameters
        ----------
        frequency : float
            Cycles per arcsec, any shape.

        Returns
        -------
        float64
            1 at frequency 0.
        """
        order = self.beta - 1.0
        q = 2.0 * np.pi * np.maximum(np.asarray(frequency, dtype=np.float64), 1e-6) * self.alpha_arcsec
        value: NDArray[np.float64] = 2.0 * (q / 2.0) ** order * kv(order, q) / gamma(order)
        return value

    def noise_area_arcsec2(self) -> float:
        """Area whose sky noise an optimal point-source measurement collects, arcsec²."""
        beta = self.beta
        return float(np.pi * self.alpha_arcsec**2 * (2.0 * beta - 1.0) / (beta - 1.0) ** 2)


@lru_cache(maxsize=512)
def transfer_grid(psf: Moffat, size: int, step_arcsec: float, pixel_arcsec: float) -> NDArray[np.float32]:
    """Transfer function of PSF and pixel for `scipy.fft.rfft2` of a square grid.

    The drawing grid holds means over its own pixels where profiles are steep; that
    blur is taken out again.

    Parameters
    ----------
    psf : Moffat
        Of one band.
    size : int
        Pixels on a side of the drawing grid.
    step_arcsec : float
        Its pixel scale.
    pixel_arcsec : float
        Side of the detector's pixels, over which light is collected.

    Returns
    -------
    float32, shape (size, size // 2 + 1)
    """
    ky = np.fft.fftfreq(size, step_arcsec)[:, None]
    kx = np.fft.rfftfreq(size, step_arcsec)[None, :]
    pixel = np.sinc(kx * pixel_arcsec) * np.sinc(ky * pixel_arcsec)
    drawn = np.sinc(kx * step_arcsec) * np.sinc(ky * step_arcsec)
    grid: NDArray[np.float32] = (psf.transfer(np.hypot(kx, ky)) * pixel / drawn).astype(np.float32)
    return grid
