"""ImageNet classification, which makes the weights that segmentation starts from."""
