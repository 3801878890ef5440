"""Where and how results are written."""
