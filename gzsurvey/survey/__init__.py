"""Plan, run and publish the classification of a footprint."""
