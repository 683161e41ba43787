"""
The stable reason codes: one meaning each, the same in log, record, metric label, preface, CLI and docs/codes.md.

Ring 0. Imports nothing of tcpmesh. A code is never reused for another meaning.
"""

from __future__ import annotations

import attrs

__all__ = ["Code", "all_codes", "by_id"]


@attrs.frozen
class Code:
    """
    One reason why a connection ended, was refused, or why the proxy did not start.

    ``retryable`` says whether another endpoint may do better; it holds only before a payload byte has left. ``passes``
    says that what was in the way is likely to go by itself, so that connecting again somewhat later may succeed.
    """

    id: str
    summary: str
    next_step: str
    retryable: bool = False
    passes: bool = False

    def __str__(self) -> str:
        return self.id


_CODES: dict[str, Code] = {}


def _code(id: str, summary: str, next_step: str, **kind: bool) -> Code:  # noqa: A002
    if id in _CODES:
        raise ValueError(f"code {id} is defined twice")
    code = Code(id, summary, next_step, **kind)
    _CODES[id] = code
    return code


def by_id(id: str) -> Code | None:  # noqa: A002
    """Find a code, for example one that a peer's preface named."""
    return _CODES.get(id)


def all_codes() -> tuple[Code, ...]:
    """Every code, in the order of its number."""
    return tuple(sorted(_CODES.values(), key=lambda code: code.id))


# A table, two lines a row.
# fmt: off
# --- TM-I identity: the first digit is the layer: own source, own certificate, map, reach, present, trust, match
NO_IDENTITY = _code("TM-I101", "this proxy has no identity for the workload yet",
    "see what its source waits for, or why it fails: tcpmesh identity show, and the source's log lines", passes=True)
OWN_EXPIRED = _code("TM-I102", "this proxy's own certificate has expired",
    "see why the source did not renew it: tcpmesh identity show, the source's log lines, the clock")
SOURCE_STALE = _code("TM-I103", "the identity source fails; its last identities still serve",
    "see since when and why it fails: tcpmesh identity show; mend that before the certificate expires")
OWN_REVOKED = _code("TM-I104", "the identity source has withdrawn the workload's identity",
    "see who deleted or changed the workload's entry at its source; since when: tcpmesh identity show")
OWN_DENIED = _code("TM-I105", "this proxy's own certificate is on the deny-list",
    "let its source issue one with another key, or correct the entry that the line names: tcpmesh identity show")
KEY_MISMATCH = _code("TM-I201", "the private key does not belong to the certificate",
    "put key and certificate of the same issue into place; whose key it must be: tcpmesh svid inspect")
OWN_CHAIN_BROKEN = _code("TM-I202", "this proxy's own certificate does not verify under its own bundle",
    "compare the chain's issuer with the bundle: tcpmesh svid inspect; if the bundle was changed: tcpmesh bundle diff")
OWN_PROFILE = _code("TM-I203", "this proxy's own certificate breaks the X.509-SVID profile",
    "issue the certificate anew without the defects that tcpmesh svid inspect shows")
UNMAPPED = _code("TM-I301", "a foreign name has no SPIFFE ID",
    "correct the name, or the entry of identity.mapping that is nearest; then: tcpmesh identity resolve")
AMBIGUOUS = _code("TM-I302", "a foreign name has several SPIFFE IDs",
    "let one entry of identity.mapping take the name: its issuer or where; or tcpmesh identity resolve --mapping NAME")
PLAINTEXT_PEER = _code("TM-I402", "the peer does not speak TLS",
    "point the client at the outbound listener, or the service at the TLS port: tcpmesh svid inspect HOST:PORT",
    retryable=True)
PEER_ALERT = _code("TM-I403", "the peer refused our handshake with a TLS alert",
    "read the peer's log at the same time: it names the reason; tcpmesh svid inspect HOST:PORT --identity",
    retryable=True)
TLS_FAILED = _code("TM-I404", "the TLS handshake failed",
    "compare tls.min_version and max_version with what the peer speaks: tcpmesh svid inspect, openssl s_client",
    retryable=True)
HANDSHAKE_TRUNCATED = _code("TM-I405", "the peer closed the connection during the TLS handshake",
    "read the peer's log at the same time; health checks look like this, too; tcpmesh svid inspect HOST:PORT",
    retryable=True)
NO_SPIFFE_ID = _code("TM-I501", "the peer's certificate carries no SPIFFE ID",
    "issue it with one URI name (tcpmesh ca issue --id), or expect its dns: name", retryable=True)
SEVERAL_IDS = _code("TM-I502", "the peer's certificate carries several URI names",
    "issue it with exactly one URI name: tcpmesh ca issue --id", retryable=True)
EXPIRED = _code("TM-I503", "the peer's certificate has expired",
    "see why the peer did not renew it; compare both clocks: tcpmesh svid inspect HOST:PORT", retryable=True)
NOT_YET_VALID = _code("TM-I504", "the peer's certificate is not yet valid",
    "compare both clocks: tcpmesh svid inspect HOST:PORT", retryable=True)
NO_CERTIFICATE = _code("TM-I505", "the peer presented no certificate",
    "let the client come through its own proxy, or give it a certificate: tcpmesh ca issue", retryable=True)
PROFILE = _code("TM-I506", "the peer's certificate breaks the X.509-SVID profile",
    "issue the certificate anew without the defects that tcpmesh svid inspect shows", retryable=True)
INVALID_ID = _code("TM-I507", "the peer's certificate carries a malformed SPIFFE ID",
    "issue it with a well-formed ID: the message says which rule it breaks; tcpmesh svid inspect", retryable=True)
CERTIFICATE_TOO_LARGE = _code("TM-I508", "the peer's certificates are too large or too many",
    "issue a short chain with few names: the message names the limit; tcpmesh svid inspect", retryable=True)
MALFORMED_CERTIFICATE = _code("TM-I509", "the peer's certificate cannot be read",
    "inspect it: tcpmesh svid inspect, openssl x509 -text; issue it anew", retryable=True)
EXPIRED_SINCE = _code("TM-I510", "the peer's certificate expired while the connection lived (on_expiry: close)",
    "let the application connect again, as it should; if that fails too: tcpmesh svid inspect HOST:PORT",
    retryable=True)
NO_BUNDLE = _code("TM-I601", "there is no trust bundle for the peer's trust domain",
    "configure a bundle for that trust domain, or correct the ID; what is held: tcpmesh identity show", retryable=True)
WRONG_ANCHOR = _code("TM-I602", "the peer's certificate was signed by another trust domain's authority",
    "have it issued by its own trust domain's authority, or correct that one's bundle: tcpmesh bundle diff",
    retryable=True)
BUNDLE_STALE = _code("TM-I603", "another trust domain's bundle cannot be refreshed; the last one still serves",
    "see the reason in the line: file or endpoint (identity.federation), network, clock; tcpmesh identity show")
UNKNOWN_AUTHORITY = _code("TM-I604", "no known authority signed the peer's certificate",
    "compare the issuer in the message with the bundle: tcpmesh identity show, tcpmesh bundle diff", retryable=True)
CHAIN_INVALID = _code("TM-I605", "the peer's certificate chain does not verify",
    "inspect the chain for the defect in the message: tcpmesh svid inspect, openssl verify -show_chain", retryable=True)
PEER_DENIED = _code("TM-I606", "the peer is on the deny-list",
    "see the entry that the line names: tcpmesh identity show; a new certificate helps if it says issued_before",
    retryable=True)
VOUCHER_GONE = _code("TM-I607", "the authority that vouched for a live connection's peer has left the trust bundle",
    "see what changed the bundle: tcpmesh bundle diff, its source's log lines; the peer needs a certificate under it",
    retryable=True)
ID_DIFFERS = _code("TM-I701", "the peer is not the one that was expected",
    "correct the service's expect, or the endpoint's address: tcpmesh identity map", retryable=True)
TRUST_DOMAIN_DIFFERS = _code("TM-I702", "the peer is of another trust domain than expected",
    "correct the service's expect, or the endpoint's address: tcpmesh identity map", retryable=True)
DNS_DIFFERS = _code("TM-I703", "the server's certificate is not for the expected DNS name",
    "correct expect, or have the certificate issued for that name: tcpmesh svid inspect HOST:PORT", retryable=True)
KEY_DIFFERS = _code("TM-I704", "the server's key is not one of those that are pinned",
    "ask the server's owner whether the key was changed; then pin the new one: tcpmesh svid inspect", retryable=True)

# --- TM-P policy
DENIED_BY_RULE = _code("TM-P101", "a policy denies this identity",
    "see the rule and its place: tcpmesh explain --last-denied; remove the identity there, if it should come in")
NO_RULE_ALLOWS = _code("TM-P102", "no policy allows this identity",
    "see the listener's nearest rule: tcpmesh explain --last-denied; allow the identity there, if it should come in")
POLICY_FAILED = _code("TM-P103", "a policy plugin failed, and a failure denies",
    "read the record's reason; if it names an exception, see its traceback in the log")
POLICY_TIMED_OUT = _code("TM-P104", "a policy plugin did not answer in time, and silence denies",
    "see why the plugin is slow, or give it more time: timeouts.decision", passes=True)
CLIENT_NOT_ALLOWED = _code("TM-P105", "this local user may not use the listener's identity",
    "add the user to outbound.clients, or run the program as one of them")
PROBE_NOT_ALLOWED = _code("TM-P106", "this identity may not ask how it is seen",
    "add the identity to the inbound listener's probe.allow, if it should be told")
OUTBOUND_DENIED = _code("TM-P107", "a policy denies this service to this workload",
    "see the rule and its place: tcpmesh explain --last-denied; remove the workload there, if it should get out")
OUTBOUND_NOT_ALLOWED = _code("TM-P108", "no policy allows this service to this workload",
    "see the nearest rule: tcpmesh explain --last-denied; allow the service there, or set defaults.outbound to allow")
POLICY_CHANGED = _code("TM-P109", "the policies no longer allow a connection that lived",
    "see the policy and rule that the reason names, and who changed them; on_change: drain or log for a gentler end")

# --- TM-U upstream
CONNECT_REFUSED = _code("TM-U101", "the address refused the connection",
    "start the service, or correct the endpoint's address: ss -ltnp on its machine", retryable=True)
UNREACHABLE = _code("TM-U102", "the address cannot be reached",
    "check routes and firewalls: ip route get ADDRESS", retryable=True)
NO_ENDPOINT = _code("TM-U103", "the service has no endpoint to try",
    "see the service's discovery in the configuration and its log lines", passes=True)
CONNECT_FAILED = _code("TM-U104", "connecting failed",
    "see the system error that the message names", retryable=True)
ALL_UNAVAILABLE = _code("TM-U105", "every endpoint of the service is ejected or down",
    "mend what the reason names of the endpoints; they are tried again by themselves", passes=True)
TARGET_FAILED = _code("TM-U106", "the inbound proxy cannot reach its application",
    "start the application, or correct the inbound listener's target: ss -ltnp", retryable=True)
NO_ROUTE = _code("TM-U108", "no route of the listener is for the server name that the client asks for",
    "see the name in the record (sni); add a route for it, or one without sni for all others")
CIRCUIT_OPEN = _code("TM-U107", "the service's circuit is open: connection after connection to it failed",
    "mend what the reason names as the last failure; the service is tried again by itself", passes=True)
PREFACE_MALFORMED = _code("TM-U109", "the peer's hop preface cannot be read",
    "compare both proxies' versions: tcpmesh version", retryable=True)
CLOSED_BEFORE_OK = _code("TM-U110", "the peer closed the connection before it accepted it",
    "read the peer's log at the same time: its own record names the code", retryable=True)
REFUSED_BY_PEER = _code("TM-U111", "the peer refused with a code that this version does not know",
    "read the text that the peer sent, and its log; update the older proxy", retryable=True)
BALANCER_FAILED = _code("TM-U112", "a balancing plugin failed, and a failure means no endpoint",
    "see the plugin's traceback in the log")
DISCOVERY_FAILED = _code("TM-U113", "a service's discovery fails; the endpoints that it named last go on to serve",
    "mend what the line names: the file, the name servers, or what the plugin's traceback shows")
ENDPOINT_REMOVED = _code("TM-U114", "discovery removed the endpoint of a connection that lived",
    "see who took it out, and whether its clients connect again; on_removed: drain or keep for a gentler end",
    retryable=True)
ENDPOINT_DOWN = _code("TM-U115", "active checks of an endpoint fail: it gets no connections until they succeed again",
    "see why in the line; ask as the checks do: tcpmesh svid inspect HOST:PORT, or look at the server itself")
ENDPOINT_EJECTED = _code("TM-U116", "an endpoint failed again and again, and is left alone for a while",
    "see the last failure in the line, and the server's log; when it is tried again: docs/upstream-health.md")

# --- TM-T time
CONNECT_TIMEOUT = _code("TM-T101", "connecting took too long",
    "look for a firewall that drops packets, or a dead machine; timeouts.connect", retryable=True)
HANDSHAKE_TIMEOUT = _code("TM-T102", "the TLS handshake took too long",
    "look for a silent or plaintext peer, or an overloaded one; timeouts.handshake", retryable=True)
PREFACE_TIMEOUT = _code("TM-T103", "the peer did not say in time whether it accepts",
    "see why the peer's application is slow to accept; timeouts.preface", retryable=True)
IDLE_TIMEOUT = _code("TM-T104", "no byte for the idle time",
    "let the application send keepalives, or raise timeouts.idle")
HALF_CLOSE_TIMEOUT = _code("TM-T105", "one side had ended and the other was silent for the half_close time",
    "raise timeouts.half_close if replies may take longer")
LIFETIME = _code("TM-T106", "the connection reached its maximum lifetime",
    "let the application connect again, as it should; timeouts.lifetime")
PEER_VANISHED = _code("TM-T107", "the peer stopped acknowledging (keepalive or user timeout)",
    "look for a dead host or a firewall that forgets connections")
RESOLVE_TIMEOUT = _code("TM-T108", "the service's discovery has said nothing yet, and that took too long",
    "see the discovery's log lines: whom it asks and why it fails; timeouts.resolve",
    retryable=True)
QUEUE_TIMEOUT = _code("TM-T109", "the connection waited in the service's queue, and no room came in time",
    "see which limit the reason names, and who has the connections: tcpmesh connections; timeouts.queue", passes=True)
ESTABLISH_TIMEOUT = _code("TM-T110", "the connection was not established in time, with all attempts and waits",
    "see the failures in the connection's record; timeouts.establish", passes=True)
CLIENT_HELLO_TIMEOUT = _code("TM-T111", "the client sent no ClientHello in time, which the listener routes by",
    "let the client speak TLS at once; give a protocol whose server speaks first a listener without sni routes")
PROXY_HEADER_TIMEOUT = _code("TM-T112", "a PROXY protocol header did not come in time",
    "see whether the load balancer sends it: send-proxy-v2 (HAProxy), proxy_protocol on (nginx)")

# --- TM-L limits
CONNECTION_LIMIT = _code("TM-L101", "the limit of connections is reached",
    "find who holds them: tcpmesh connections; raise limits.connections", passes=True)
HANDSHAKE_LIMIT = _code("TM-L102", "the limit of pending handshakes is reached",
    "find who opens and never speaks: tcpmesh connections; raise limits.handshakes", passes=True)
OUT_OF_DESCRIPTORS = _code("TM-L103", "the process is out of file descriptors",
    "raise the limit of open files (LimitNOFILE=, ulimit -n)", retryable=True)
LINES_DROPPED = _code("TM-L104", "log lines or records were dropped, because their destination does not take them",
    "look for a full disk, or for a reader of the pipe that has stopped: df, tcpmesh_records_dropped_total")
UNREAD_ANSWERS = _code("TM-L105", "the TLS peer demands answer after answer and reads none",
    "find out what the peer is: no TLS library does this by itself")
POLICY_CONNECTIONS = _code("TM-L106", "a policy's limit of connections is reached",
    "see the policy in the refusing proxy's record, and who has them: tcpmesh connections --by identity, or source",
    retryable=True)
POLICY_RATE = _code("TM-L107", "a policy's limit of new connections is reached",
    "see the policy in the refusing proxy's record; let the client keep its connections, or raise limit.rate",
    retryable=True)
QUEUE_FULL = _code("TM-L108", "the service's queue is full",
    "see who has the connections: tcpmesh connections; raise the limit that the reason names, or queue.length",
    passes=True)
SERVICE_CONNECTIONS = _code("TM-L109", "the service's limit of connections is reached",
    "see who has the connections: tcpmesh connections; raise the service's limits.connections", passes=True)
ENDPOINT_CONNECTIONS = _code("TM-L110", "every usable endpoint of the service has as many connections as it may",
    "see who has the connections: tcpmesh connections; raise the service's limits.per_endpoint, or add endpoints",
    passes=True)
PENDING_DIALS = _code("TM-L111", "the service's limit of pending dials is reached",
    "see why dials take long: the failures in the records; raise the service's limits.pending", passes=True)
LISTENER_CONNECTIONS = _code("TM-L112", "the listener's own limit of connections is reached",
    "find who holds them: tcpmesh connections --by source; raise the listener's limits.connections", passes=True)

# --- TM-D data path
CLEAN = _code("TM-D100", "both sides ended",
    "nothing to do")
RESET = _code("TM-D101", "one side reset the connection",
    "see closed_by in the record, and that side's log")
TRUNCATED = _code("TM-D102", "the TLS peer closed without close_notify",
    "look for a crash or a cut on the wire; truncation: eof for peers that never send it")
TRUNCATED_AS_EOF = _code("TM-D103", "ended without close_notify, taken as an end as configured",
    "nothing to do")
CANCELLED = _code("TM-D104", "the client went away before the connection was established",
    "nothing to do, unless it happens often")
NO_BYTE = _code("TM-D105", "connected and closed without a byte",
    "nothing to do: a health check or a scanner; tcpmesh_connections_closed_total counts them")
TLS_BROKEN = _code("TM-D106", "a TLS record could not be read",
    "find what damages data on the way: a middlebox, a network card, an attacker")
PROBE_ANSWERED = _code("TM-D107", "the peer asked how it is seen, and was told",
    "nothing to do: somebody runs tcpmesh identity check")
PROXY_HEADER_MALFORMED = _code("TM-D108", "a PROXY protocol header cannot be read",
    "see what the load balancer sends: send-proxy or send-proxy-v2, once, before TLS")
PROXY_HEADER_MISSING = _code("TM-D109", "a source that must begin with a PROXY protocol header did not",
    "let the load balancer send it, or take the source out of proxy_protocol.accept_from")
NOT_TLS = _code("TM-D110", "the client does not begin with a TLS ClientHello, which the listener routes by",
    "let the client speak TLS from its first byte, or give it a listener without sni routes and passthrough")
HEALTH_CHECKED = _code("TM-D111", "the peer asked whether this listener lives, and was told",
    "nothing to do: a proxy's health check; tcpmesh_connections_closed_total counts them")

# --- TM-O operation
SHUTDOWN = _code("TM-O101", "the proxy stopped before the connection ended",
    "raise timeouts.shutdown, if connections need longer to finish")
STOPPING = _code("TM-O102", "the proxy is stopping",
    "connect again, to another instance or after the restart", retryable=True)
INTERNAL = _code("TM-O199", "an internal error; the connection was refused",
    "report the traceback in the log as a bug")

# --- TM-C configuration and start
BAD_CONFIGURATION = _code("TM-C101", "the configuration cannot be used",
    "correct what the lines above name, then: tcpmesh check")
CANNOT_LISTEN = _code("TM-C102", "a listener's address cannot be bound",
    "see what else uses it: ss -ltnp, or ss -lxp for a unix socket")
STATE_IN_USE = _code("TM-C103", "another process owns the state directory",
    "stop that process, or give this one a state directory of its own")
STATE_UNUSABLE = _code("TM-C104", "the state directory cannot be used",
    "correct what the message names: ls -ld on the directory")
PLUGIN_UNUSABLE = _code("TM-C105", "a plugin cannot be used",
    "see why: tcpmesh plugins")
LOG_UNUSABLE = _code("TM-C106", "a log file cannot be opened",
    "correct log.access, or who may write in that directory: ls -ld")
# fmt: on
