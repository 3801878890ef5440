"""Galaxy Zoo votes to a galaxy foundation model, and that model to a catalogue of a whole survey."""

__version__ = "0.1.0"
