"""The conformance kit for tasks."""
