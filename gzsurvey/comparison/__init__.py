"""Two catalogues of the same galaxies, side by side."""

from gzsurvey.comparison.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
