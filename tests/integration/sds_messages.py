"""
Writes the messages of Envoy's secret discovery service, as SPIRE's agent fills them in.

The numbers of the fields are those of Envoy's API, version 3: ``extensions/transport_sockets/tls/v3``,
``service/discovery/v3``, ``config/core/v3``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tcpmesh.testing.workload_messages import protobuf_field

__all__ = ["SECRET", "any_message", "certificate_secret", "response", "trust_secret"]

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
SECRET = f"{_TLS}.Secret"


def any_message(kind: str, message: bytes) -> bytes:
    """A google.protobuf.Any."""
    return protobuf_field(1, kind) + protobuf_field(2, message)


def certificate_secret(name: str, chain: bytes, key: bytes) -> bytes:
    """A Secret with a TlsCertificate, both parts in PEM."""
    certificate = protobuf_field(1, _inline(chain)) + protobuf_field(2, _inline(key))
    return protobuf_field(1, name) + protobuf_field(2, certificate)


def trust_secret(name: str, bundles: Mapping[str, bytes]) -> bytes:
    """A Secret with a CertificateValidationContext: the SPIFFE validator with each trust domain's bundle in PEM."""
    domains = [
        protobuf_field(1, protobuf_field(1, domain) + protobuf_field(2, _inline(bundle)))
        for domain, bundle in bundles.items()
    ]
    validator = any_message(f"{_TLS}.SPIFFECertValidatorConfig", b"".join(domains))
    extension = protobuf_field(1, "envoy.tls.cert_validator.spiffe") + protobuf_field(2, validator)
    return protobuf_field(1, name) + protobuf_field(4, protobuf_field(12, extension))


def response(resources: Sequence[bytes], version: str) -> bytes:
    """A DiscoveryResponse whose nonce is the version."""
    listed = b"".join(protobuf_field(2, resource) for resource in resources)
    return protobuf_field(1, version) + listed + protobuf_field(4, SECRET) + protobuf_field(5, version)


def _inline(data: bytes) -> bytes:
    """A DataSource with inline_bytes."""
    return protobuf_field(2, data)
