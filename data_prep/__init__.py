"""Data sets as tfds records, one module each; every one of these is a command."""
