"""Frames, stretches and resampling: from pixels to a model's input."""

from gzsurvey.images.frame import Frame, field_of_view
from gzsurvey.images.prepare import frame_of, prepare_cutout, prepare_picture, shown
from gzsurvey.images.stretch import to_rgb

__all__ = ["Frame", "field_of_view", "frame_of", "prepare_cutout", "prepare_picture", "shown", "to_rgb"]
