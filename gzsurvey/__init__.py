"""Galaxy Zoo votes to a galaxy foundation model, and that model to a catalogue of a whole survey."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = dict.fromkeys(("crossmatch", "query", "read_catalogue", "send"), "gzsurvey.catalogue")
_FUNCTIONS |= {"compare": "gzsurvey.comparison", "release": "gzsurvey.deposit"}
"""Public functions by name, and where they are."""


def __getattr__(name: str) -> Any:
    """Load a public function when it is asked for, so that importing the package stays light."""
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
