"""The normal-float quantizer."""
