"""The trainer plugins: CoA-LoRA and what it is compared with."""
