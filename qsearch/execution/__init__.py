"""Who evaluates: this process or Ray workers."""
