"""One page and picture sheets about a run."""

from gzsurvey.report.gallery import contact_sheet
from gzsurvey.report.page import report

__all__ = ["contact_sheet", "report"]
