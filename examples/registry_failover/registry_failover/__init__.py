"""Three tcpmesh plugins for a service with one good place at a time."""
