"""Training stores."""
