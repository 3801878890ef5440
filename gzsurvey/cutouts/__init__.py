"""Sources of pixels, all behind one protocol."""
