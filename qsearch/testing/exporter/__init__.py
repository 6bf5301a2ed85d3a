"""The conformance kit for exporters."""
