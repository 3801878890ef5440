"""Targets, footprints and blocks: positions on the sky."""
