"""CoA-LoRA for transformers: one configuration-aware adapter for all configurations."""
