"""The quantizer ``gguf``: ggml's types, quantized by ggml itself, as GGUF files hold them."""
