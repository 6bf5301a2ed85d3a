"""The loop: open, train, evaluate, search, filter, record, again."""
