"""Ring 1: where a service answers."""
