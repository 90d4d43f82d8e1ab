"""Training that knows no method: state, optimiser, the loop."""
