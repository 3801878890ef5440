"""Training stores."""

from gzsurvey.dataset.building import build
from gzsurvey.dataset.store import Store
from gzsurvey.dataset.summary import contact_sheet, info

__all__ = ["Store", "build", "contact_sheet", "info"]
