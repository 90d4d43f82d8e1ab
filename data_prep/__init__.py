"""Prepares data sets as tfds records; one module and command per data set."""
