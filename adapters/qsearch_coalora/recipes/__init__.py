"""A configuration as recipes of other tools, which quantize the model by it; and back."""
