"""Options that all methods share, and the device that a study runs on."""
