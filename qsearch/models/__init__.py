"""Any PyTorch module: its quantizable layers, their quantization errors, quantized weights."""
