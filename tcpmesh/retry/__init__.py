"""Ring 1: whether a failed attempt is followed by another."""
