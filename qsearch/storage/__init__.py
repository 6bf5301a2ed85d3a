"""A study directory: paths, atomic writes, checksums, lock, and what each file holds."""
