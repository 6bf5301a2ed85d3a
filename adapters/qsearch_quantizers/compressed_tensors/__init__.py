"""Quantizer of the schemes that the format compressed-tensors has for weights alone."""
