"""Domains, and the loading and augmentation of their images."""
