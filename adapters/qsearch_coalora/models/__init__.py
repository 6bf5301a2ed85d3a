"""Models of transformers: where they are, how they are loaded, and which layers are quantizable."""
