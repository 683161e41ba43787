"""A policy for tcpmesh: each team at its own hours."""
