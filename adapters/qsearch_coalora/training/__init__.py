"""Training and evaluation of an adapter: loop, options, data order, checkpoints."""
