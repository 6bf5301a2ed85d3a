"""A model's quantized weights: cache and switching, errors, sensitivities and calibration."""
