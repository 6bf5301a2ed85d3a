"""The configuration-aware LoRA: θ, folding of U, residual factors, the adapted model."""
