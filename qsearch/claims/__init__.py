"""What results support: paired differences, claims on sizes, and warnings."""
