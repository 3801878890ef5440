"""Training stores."""

from gzsurvey.dataset.build import build
from gzsurvey.dataset.store import Store

__all__ = ["Store", "build"]
