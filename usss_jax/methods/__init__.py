"""Methods as plans of jobs, and the code that they share."""
