"""Events of a running study, and what they report: status, time left, loggers."""
