"""What CoA-LoRA is compared with: the same model, data, optimizer and steps."""
