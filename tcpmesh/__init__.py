"""tcpmesh: mutual TLS, SPIFFE identity and authorization for services that speak raw TCP."""

__version__ = "0.1.0"
