"""The study YAML as validated data: loading, resolving, defaults, limits, ready studies."""
