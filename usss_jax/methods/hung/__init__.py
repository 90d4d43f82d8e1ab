"""Hung et al. (2018): adversarial semi-supervised segmentation of one domain."""
