"""
The policy language as docs/policy.md describes it, evaluated rule by rule on what was written.

Shares no code with the product: policies are the mappings of the YAML file, requests are mappings of texts and numbers.
"""

from __future__ import annotations

import datetime
import ipaddress
import zoneinfo
from typing import Any

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LEADING = ["ids", "prefixes", "trust_domains", "dns", "networks"]

Answer = tuple[str, str, str, list[tuple[str, str, str]]]  # effect, policy, rule, notes


def decide(policies: list[dict[str, Any]], request: dict[str, Any]) -> Answer:
    """The first denial in the order of the file decides, else the first that allows."""
    matching = []
    for number, policy in enumerate(policies):
        if not concerns(policy, request) or not holds(policy.get("when"), request):
            continue
        for position, entry in enumerate(policy["from"]):
            if not means(policy, entry, request):
                continue
            place = matches(entry, request)
            if place is not None:
                matching.append((policy, f"policies[{number}].from[{position}].{place}"))
                break
    notes = [
        (policy["name"], rule, "audit" if policy["action"] == "audit" else f"would-{policy['action']}")
        for policy, rule in matching
        if policy["action"] == "audit" or policy.get("mode") == "dry-run"
    ]
    for action in ("deny", "allow"):
        for policy, rule in matching:
            if policy["action"] == action and policy.get("mode", "enforce") == "enforce":
                return action, policy["name"], rule, notes[:8]
    return "abstain", "", "", notes[:8]


def concerns(policy: dict[str, Any], request: dict[str, Any]) -> bool:
    """Every key of "to" must fit; without it, every inbound connection."""
    targets = policy.get("to", {})
    if bool(request["service"]) != ("services" in targets):
        return False
    return all(
        [
            "services" not in targets or request["service"] in targets["services"],
            "inbound" not in targets or request["inbound"] in targets["inbound"],
            "ports" not in targets or request["port"] in targets["ports"],
            "alpn" not in targets or request["alpn"] in targets["alpn"],
            "sni" not in targets or any(dns(pattern, request["sni"]) for pattern in targets["sni"]),
        ]
    )


def means(policy: dict[str, Any], entry: dict[str, Any], request: dict[str, Any]) -> bool:
    """Who has no identity is allowed by "any: unauthenticated" only; what restricts may also name networks alone."""
    if request["service"] or has_identity(request):
        return entry.get("any") != "unauthenticated"
    if "certificate" in policy.get("when", {}):
        return False
    if policy["action"] != "allow" and set(entry) <= {"networks", "except"}:
        return True
    return entry.get("any") == "unauthenticated"


def has_identity(request: dict[str, Any]) -> bool:
    return request["id"] is not None or bool(request["dns"])


def matches(entry: dict[str, Any], request: dict[str, Any]) -> str | None:
    """Every key must fit by any of its values, and no exception; the value of the leading key that does."""
    fits: dict[str, list[int]] = {}
    for key in LEADING:
        if key in entry:
            fits[key] = [index for index, value in enumerate(entry[key]) if value_fits(key, value, request)]
            if not fits[key]:
                return None
    for exception in entry.get("except", []):
        if "any" in exception and not has_identity(request):
            continue
        if matches(exception, request) is not None:
            return None
    if not fits:
        assert entry["any"] in ("authenticated", "unauthenticated")
        return "any"
    key, indexes = next(iter(fits.items()))
    return f"{key}[{indexes[0]}]"


def value_fits(key: str, value: str, request: dict[str, Any]) -> bool:
    peer = request["id"]
    if key == "networks":
        return within(value, request["source"])
    if key == "dns":
        return peer is None and dns(value, request["dns"])
    if peer is None:
        return False
    if key == "trust_domains":
        return peer.split("/")[2] == value
    if key == "prefixes":
        return peer.startswith(value) and peer != value
    wanted, given = value.split("/"), peer.split("/")
    if wanted[-1] == "**":
        wanted, given, more = wanted[:-1], given[: len(wanted) - 1], len(given) >= len(wanted)
    else:
        more = len(wanted) == len(given)
    return more and all(one in ("*", other) for one, other in zip(wanted, given, strict=True))


def dns(pattern: str, name: str) -> bool:
    wanted, given = pattern.split("."), name.lower().split(".")
    if "" in given:
        return False
    if wanted[0] == "**":
        return len(given) >= len(wanted) and given[-len(wanted) + 1 :] == wanted[1:]
    if wanted[0] == "*":
        return len(given) == len(wanted) and given[1:] == wanted[1:]
    return given == wanted


def within(network: str, source: str) -> bool:
    if source.startswith("unix:"):
        return False
    address = ipaddress.ip_address(source)
    mapped = getattr(address, "ipv4_mapped", None)
    found = ipaddress.ip_network(network)
    return (mapped or address).version == found.version and (mapped or address) in found


def holds(when: dict[str, Any] | None, request: dict[str, Any]) -> bool:
    """The certificate's times all hold, and one of the windows."""
    if when is None:
        return True
    now = request["now"]
    age, remaining = now - request["not_before"], request["not_after"] - now
    times = when.get("certificate", {})
    good = [
        age >= seconds(times.get("min_age", "0s")) or "min_age" not in times,
        "max_age" not in times or age < seconds(times["max_age"]),
        "min_remaining" not in times or remaining > seconds(times["min_remaining"]),
        "max_remaining" not in times or remaining <= seconds(times["max_remaining"]),
    ]
    return all(good) and ("windows" not in when or any(window_holds(one, now) for one in when["windows"]))


def window_holds(window: dict[str, Any], now: float) -> bool:
    local = datetime.datetime.fromtimestamp(now, zoneinfo.ZoneInfo(window.get("timezone", "UTC")))
    minute = local.hour * 60 + local.minute
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    days = window.get("days", DAYS)
    for hours in window.get("hours", ["00:00-24:00"]):
        start, end = (int(text[:2]) * 60 + int(text[3:]) for text in hours.split("-"))
        if start < end:
            if today in days and start <= minute < end:
                return True
        elif (today in days and minute >= start) or (yesterday in days and minute < end):
            return True
    return False


def seconds(text: str) -> int:
    return int(text[:-1]) * SECONDS[text[-1]]
