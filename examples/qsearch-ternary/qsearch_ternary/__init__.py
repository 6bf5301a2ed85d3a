"""A quantizer and an export format of its own, for qsearch."""
