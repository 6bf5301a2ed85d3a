"""The Gaussian process that predicts a configuration's loss."""
