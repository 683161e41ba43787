"""Tests of the identity source ``vault``."""
