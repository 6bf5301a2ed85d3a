"""Plugins: what they must and may do, how they are found, and a study's components."""
