"""Galaxy Zoo votes to a galaxy foundation model, and that model to a catalogue of a whole survey."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `gzsurvey.read_catalogue` when it is asked for, so that importing the package stays light."""
    if name == "read_catalogue":
        return import_module("gzsurvey.catalogue").read_catalogue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
