"""The networks: encoder, BYOL, vote head, checkpoints."""
