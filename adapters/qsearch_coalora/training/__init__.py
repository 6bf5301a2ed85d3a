"""Training and evaluation of an adapter: loop, order of data, early stopping, checkpoints."""
