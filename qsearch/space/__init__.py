"""What is searched: layers, configurations, and the discrete space they span."""
