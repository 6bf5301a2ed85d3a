"""The HTML pages: one study, a comparison, an index."""
