"""Ring 1: which endpoint is tried."""
