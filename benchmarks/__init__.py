"""Measurements of speed and memory; every script writes JSON to benchmarks/results."""
