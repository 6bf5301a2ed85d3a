"""Packed exports: writing, loading with transformers, and the layer that computes with them."""
