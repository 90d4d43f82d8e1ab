"""Encoders, decoders, embedding head, upsampling, pretrained weights."""
