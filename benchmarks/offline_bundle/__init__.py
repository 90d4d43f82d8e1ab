"""Training on a machine without network: everything it needs in a few parts, and a script that runs it there."""
