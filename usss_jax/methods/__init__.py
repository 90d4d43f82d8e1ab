"""Training methods as plans of jobs, and what they share."""
