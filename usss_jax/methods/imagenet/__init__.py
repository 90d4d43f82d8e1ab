"""ImageNet classification, for the weights of an encoder."""
