"""The integer quantizer: even grids, GPTQ, and the formats that hold them."""
