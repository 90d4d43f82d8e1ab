"""Devices and processes: the mesh, and what several hosts agree on."""
