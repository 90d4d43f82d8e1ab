"""Self-training for any method: pseudo-labels of a finished network, and the images of a round (CBST, MLSL)."""
