"""Finished networks as files for other programs."""
