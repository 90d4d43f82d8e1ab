"""Look at data before training: `python -m usss_jax.data.check`."""
