"""Universal Semi-Supervised Semantic Segmentation (ICCV 2019)."""
