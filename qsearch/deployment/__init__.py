"""From results to a model: budgets, picking a configuration, export."""
