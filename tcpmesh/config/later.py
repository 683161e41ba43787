"""
What later versions bring, so that a reader of newer documentation is told so and need not look for a typing error.

Ring 1. Nothing here does anything; an entry leaves this table when its key is built.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ELSEWHERE", "KEYS", "VALUES", "is_later_key", "is_later_value"]

# By pattern of the mapping's place: "*" is any name or number, ":NAME" the settings of that plugin.
KEYS: Mapping[str, frozenset[str]] = {
    "authorization.*:rules": frozenset({"on_change"}),
}

# Keys that one might look for at such a place, and where they really are.
ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    "": {
        "bundles": "identity.federation",
        "deny_list": "identity.deny_list",
        "routes": "the listeners, under outbound and inbound",
        **{key: f"services.*.{key}" for key in ("balance", "discovery", "health", "queue", "retry", "retry_budget")},
    },
    "identity": {"bundles": "identity.federation"},
    "services.*": {
        **dict.fromkeys(("failover", "passthrough", "routes", "split"), "outbound.*.routes"),
        **{key: f"health.{key}" for key in ("check", "circuit", "ejection", "slow_start")},
        **dict.fromkeys(("circuit_breaker", "circuit_breakers"), "health.circuit, and limits"),
        **dict.fromkeys(("health_check", "health_checks"), "health.check"),
        "endpoints": "discovery: {plugin: static, endpoints: [...]}",
        "outlier_detection": "health.ejection",
        **dict.fromkeys(("priority", "weight", "zone"), "each entry of discovery.endpoints"),
    },
    "outbound.*": {
        **dict.fromkeys(("failover", "passthrough", "sni", "split"), "routes"),
        **{
            key: f"services.*.{key}"
            for key in ("balance", "discovery", "expect", "health", "proxy_protocol", "queue", "retry", "retry_budget")
        },
    },
    "outbound.*.limits": dict.fromkeys(("pending", "per_endpoint"), "services.*.limits"),
    "inbound.*": {"sni": "routes"},
    "services.*.retry:exponential": {"budget": "the service's retry_budget", "deadline": "timeouts.establish"},
}

# Words that a key may have later, by pattern of the key's place.
VALUES: Mapping[str, frozenset[str]] = {}


def is_later_key(pattern: str, key: str) -> bool:
    """Whether a later version reads this key in a mapping at such a place."""
    return key in KEYS.get(pattern, ())


def is_later_value(pattern: str, value: str) -> bool:
    """Whether a later version reads this word at such a place."""
    return value in VALUES.get(pattern, ())
