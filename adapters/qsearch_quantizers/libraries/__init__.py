"""Quantizers of other packages: bitsandbytes, hqq, torchao."""
