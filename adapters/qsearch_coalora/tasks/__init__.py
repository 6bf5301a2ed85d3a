"""Tasks: classification and causal language modelling, their data, batches, labels and metrics."""
