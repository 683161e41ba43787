"""Ring 1: one YAML file, read into tcpmesh.settings with every error at its place."""
