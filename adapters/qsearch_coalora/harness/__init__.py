"""lm-evaluation-harness on exported models."""
