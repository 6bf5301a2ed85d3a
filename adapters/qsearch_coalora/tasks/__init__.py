"""Tasks: sequence classification and causal language modelling."""
