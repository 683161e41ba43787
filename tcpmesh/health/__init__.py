"""Ring 1: which endpoints of a service get connections."""
