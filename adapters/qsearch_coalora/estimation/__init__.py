"""What a study needs of a machine, from shapes alone."""
