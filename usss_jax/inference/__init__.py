"""Predictions and scores of finished networks."""
