"""The sky: targets, footprints, and the order in which a survey works through them."""
