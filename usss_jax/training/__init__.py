"""State, step, loop and stages."""
