"""Loggers for a running study: TensorBoard and MLflow."""
