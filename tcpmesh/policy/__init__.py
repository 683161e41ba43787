"""Ring 1: who may talk to whom."""
