"""A model's quantized weights: cache and switching, errors, sensitivities, inputs of layers."""
