"""One tcpmesh plugin of each kind."""
