"""Ring 3: identity and discovery sources that do I/O."""
