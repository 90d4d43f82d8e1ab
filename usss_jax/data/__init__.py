"""What the images are and how they arrive."""
