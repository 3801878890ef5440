"""Frames, stretches and resampling: from pixels to a model's input."""
