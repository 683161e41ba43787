"""Each plugin keeps the contract of its kind, and does what it is for."""
