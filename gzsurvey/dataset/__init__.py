"""Training stores."""

from gzsurvey.dataset.build import build
from gzsurvey.dataset.info import contact_sheet, info
from gzsurvey.dataset.store import Store

__all__ = ["Store", "build", "contact_sheet", "info"]
