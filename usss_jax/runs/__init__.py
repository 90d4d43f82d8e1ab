"""The files in the folder of a run: writing them and opening them again."""
