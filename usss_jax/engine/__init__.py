"""Training, independent of the method: state, optimiser, step and loop."""
