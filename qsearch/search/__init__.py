"""Where to look next: scores, bit allocation, acquisition, local search, Pareto filter."""
