"""The TLS core on nothing but pyOpenSSL's public API: every test of the core holds there too."""

from __future__ import annotations

from tcpmesh.dataplane.record_layer import RecordLayer
from tests.unit import test_key_updates, test_tls_core


class PublicHandshakeTests(test_tls_core.HandshakeTests):
    records = RecordLayer


class PublicDataTests(test_tls_core.DataTests):
    records = RecordLayer


class PublicEndTests(test_tls_core.EndTests):
    records = RecordLayer


class PublicDamageTests(test_tls_core.DamageTests):
    records = RecordLayer


class PublicKeyUpdateTests(test_key_updates.KeyUpdateTests):
    records = RecordLayer
