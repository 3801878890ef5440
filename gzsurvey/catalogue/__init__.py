"""Catalogues of finished runs: read them, and choose from them."""

from gzsurvey.catalogue.crossmatch import Crossmatch, crossmatch
from gzsurvey.catalogue.query import Answer, query
from gzsurvey.catalogue.read import read_catalogue
from gzsurvey.catalogue.send import send

__all__ = ["Answer", "Crossmatch", "crossmatch", "query", "read_catalogue", "send"]
