"""Encoder, decoders, embedding head, upsampling, weights of others."""
