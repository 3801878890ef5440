"""A simulated survey with volunteers."""
