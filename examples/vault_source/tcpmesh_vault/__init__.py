"""An identity source for tcpmesh: the PKI secrets engine of HashiCorp Vault or OpenBao."""
