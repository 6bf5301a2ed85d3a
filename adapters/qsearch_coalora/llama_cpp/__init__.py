"""GGUF files in llama.cpp itself: what they predict, and how fast they are."""
