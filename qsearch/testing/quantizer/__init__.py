"""The conformance kit for quantizers."""
