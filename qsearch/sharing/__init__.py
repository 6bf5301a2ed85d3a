"""Studies for others: list, archive, restore."""
