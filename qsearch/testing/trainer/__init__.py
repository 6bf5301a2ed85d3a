"""The conformance kit for trainers."""
