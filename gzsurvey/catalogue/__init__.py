"""Catalogues of finished runs: read them, and choose from them."""

from gzsurvey.catalogue.crossmatch import Crossmatch, crossmatch
from gzsurvey.catalogue.query import Answer, query
from gzsurvey.catalogue.read import read_catalogue

__all__ = ["Answer", "Crossmatch", "crossmatch", "query", "read_catalogue"]
