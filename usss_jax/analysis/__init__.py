"""Numbers and figures about finished networks."""
