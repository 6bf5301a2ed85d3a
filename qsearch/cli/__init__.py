"""The commands, their progress bars and their output."""
