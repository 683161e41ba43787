"""Measures tcpmesh beside other proxies: python -m benchmarks, or make bench."""
