"""
A first reading: two mutual TLS hops of tcpmesh, haproxy and stunnel between the same client and the same server.

    .venv/bin/python benchmarks/two_hops.py [--rounds 3] [--idle 500]

One process per hop for everyone, P-256 certificates, TLS 1.3, client certificates required. Every case is run in turn
for all proxies, and again; medians are printed. Only the ratios within one run mean anything. Bulk is counted and
hashed at the receiver: a sender's count would hide lost data.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MEBIBYTE = 2**20
BULK = 256 * MEBIBYTE
ROUND_TRIPS = 4000
TRUST_DOMAIN = "bench.test"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def serve(port: int) -> None:
    """The application: 'E' echoes, 'S' swallows and answers with the length and hash of what came."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = bytearray(MEBIBYTE)
            if connection.recv(1) == b"E":
                while count := connection.recv_into(buffer):
                    connection.sendall(memoryview(buffer)[:count])
            else:
                digest, total = hashlib.blake2b(digest_size=16), 0
                while count := connection.recv_into(buffer):
                    digest.update(memoryview(buffer)[:count])
                    total += count
                connection.sendall(f"{total} {digest.hexdigest()}".encode())

    while True:
        connection, _address = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


# --- cases


def bulk(port: int) -> float:
    """MB/s of one connection, verified at the receiver."""
    block = os.urandom(MEBIBYTE)
    digest = hashlib.blake2b(digest_size=16)
    for _block in range(BULK // MEBIBYTE):
        digest.update(block)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        started = time.perf_counter()
        client.sendall(b"S")
        for _block in range(BULK // MEBIBYTE):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
        elapsed = time.perf_counter() - started
    if answer != f"{BULK} {digest.hexdigest()}":
        raise RuntimeError(f"the receiver got something else: {answer!r}")
    return BULK / 1e6 / elapsed


def echo(port: int) -> float:
    """Median microseconds of a 64-byte round trip on one connection."""
    message, times = b"x" * 64, []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"E")
        for _round in range(ROUND_TRIPS):
            started = time.perf_counter()
            client.sendall(message)
            got = 0
            while got < len(message):
                got += len(client.recv(len(message)))
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


# --- proxies


def pss_kilobytes(processes: list[subprocess.Popen[bytes]]) -> int:
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def cpu_seconds(processes: list[subprocess.Popen[bytes]]) -> float:
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def tcpmesh(directory: Path, outer: int, middle: int, server: int) -> list[list[str]]:
    top = f"version: 1\ntrust_domain: {TRUST_DOMAIN}\nlog: {{access: none, level: warn}}\n"

    def identity(name: str) -> str:
        return (
            f"identity:\n  sources: {{disk: {{plugin: files, bundles: {{{TRUST_DOMAIN}: bundle.pem}}}}}}\n"
            f"  workloads: {{{name}: {{id: 'spiffe://{TRUST_DOMAIN}/{name}', "
            f"certificate: {name}.pem, key: {name}.key}}}}\n"
        )

    (directory / "out.yaml").write_text(
        top
        + identity("client")
        + f"services: {{s: {{expect: ['spiffe://{TRUST_DOMAIN}/server'], "
        + f"discovery: {{plugin: static, endpoints: ['127.0.0.1:{middle}']}}}}}}\n"
        + f"outbound: [{{name: o, listen: '127.0.0.1:{outer}', service: s, workload: client}}]\n"
    )
    (directory / "in.yaml").write_text(
        top
        + identity("server")
        + f"inbound: [{{name: i, listen: '127.0.0.1:{middle}', target: '127.0.0.1:{server}', workload: server}}]\n"
        + "authorization: [{plugin: rules, policies: [{name: p, action: allow, "
        + f"from: [{{ids: ['spiffe://{TRUST_DOMAIN}/client']}}]}}]}}]\n"
    )
    return [[sys.executable, "-m", "tcpmesh", "run", str(directory / f"{side}.yaml")] for side in ("in", "out")]


def haproxy(directory: Path, outer: int, middle: int, server: int) -> list[list[str]]:
    head = (
        "global\n  nbthread 1\n  maxconn 9000\ndefaults\n  mode tcp\n"
        "  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
    )
    for name in ("client", "server"):
        pem = (directory / f"{name}.pem").read_bytes() + (directory / f"{name}.key").read_bytes()
        (directory / f"{name}.both.pem").write_bytes(pem)
    ca, versions = directory / "bundle.pem", "ssl-min-ver TLSv1.3"
    (directory / "hap-out.cfg").write_text(
        head
        + f"listen o\n  bind 127.0.0.1:{outer}\n  server s 127.0.0.1:{middle} ssl verify required ca-file {ca} "
        + f"crt {directory}/client.both.pem {versions}\n"
    )
    (directory / "hap-in.cfg").write_text(
        head
        + f"listen i\n  bind 127.0.0.1:{middle} ssl crt {directory}/server.both.pem ca-file {ca} verify required "
        + f"{versions}\n  server s 127.0.0.1:{server}\n"
    )
    return [["haproxy", "-db", "-f", str(directory / f"hap-{side}.cfg")] for side in ("in", "out")]


def stunnel(directory: Path, outer: int, middle: int, server: int) -> list[list[str]]:
    for side, name, accept, connect in (
        ("out", "client", outer, middle),
        ("in", "server", middle, server),
    ):
        (directory / f"stunnel-{side}.conf").write_text(
            f"foreground = yes\npid =\ndebug = err\nsyslog = no\n[s]\nclient = {'yes' if side == 'out' else 'no'}\n"
            f"accept = 127.0.0.1:{accept}\nconnect = 127.0.0.1:{connect}\ncert = {directory}/{name}.pem\n"
            f"key = {directory}/{name}.key\nCAfile = {directory}/bundle.pem\nverifyChain = yes\n"
            "sslVersionMin = TLSv1.3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
        )
    return [["stunnel4", str(directory / f"stunnel-{side}.conf")] for side in ("in", "out")]


PROXIES: dict[str, Callable[[Path, int, int, int], list[list[str]]]] = {
    "tcpmesh": tcpmesh,
    "haproxy": haproxy,
    "stunnel": stunnel,
}


@contextlib.contextmanager
def running(name: str, directory: Path, server: int) -> Iterator[tuple[int, list[subprocess.Popen[bytes]], float]]:
    """Both hops, up to the first answered round trip; gives port, processes and seconds until both listen."""
    outer, middle = free_port(), free_port()
    started = time.perf_counter()
    commands = PROXIES[name](directory, outer, middle, server)
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        for port in (middle, outer):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                if time.perf_counter() - started > 20:
                    raise RuntimeError(f"{name} does not listen on {port}")
                time.sleep(0.005)
        yield outer, processes, time.perf_counter() - started
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def idle(port: int, processes: list[subprocess.Popen[bytes]], count: int) -> float:
    """Kilobytes (PSS) of both hops per idle connection that has carried one round trip."""
    echo(port)  # whatever is allocated once is there now
    before = pss_kilobytes(processes)
    held = []
    for _number in range(count):
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.sendall(b"E!")
        client.recv(1)
        held.append(client)
    after = pss_kilobytes(processes)
    for client in held:
        client.close()
    return (after - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=500)
    arguments = parser.parse_args()
    names = [name for name in PROXIES if name == "tcpmesh" or shutil.which("stunnel4" if name == "stunnel" else name)]
    missing = sorted(set(PROXIES) - set(names))
    server = free_port()
    application = subprocess.Popen([sys.executable, __file__, "--serve", str(server)])
    results: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        certificates(directory)
        try:
            for _round in range(arguments.rounds):
                for name in names:
                    measure(name, directory, server, arguments.idle, results[name])
                    print(".", end="", flush=True, file=sys.stderr)
        finally:
            application.terminate()
    print(file=sys.stderr)
    cases = list(results["tcpmesh"])
    print(f"{'median of ' + str(arguments.rounds):<32}" + "".join(f"{name:>12}" for name in names))
    for case in cases:
        print(f"{case:<32}" + "".join(f"{statistics.median(results[name][case]):>12.2f}" for name in names))
    if missing:
        print("not installed, not measured:", ", ".join(missing))


def certificates(directory: Path) -> None:
    """A throw-away authority and a certificate for each hop."""
    command = [sys.executable, "-m", "tcpmesh", "ca"]
    state = ["--state", str(directory / "state")]
    subprocess.run([*command, "init", *state, "--trust-domain", TRUST_DOMAIN], check=True, stdout=subprocess.DEVNULL)
    for name in ("client", "server"):
        out = directory / f"issued-{name}"
        identity = f"spiffe://{TRUST_DOMAIN}/{name}"
        issue = [*command, "issue", *state, "--id", identity, "--out", str(out)]
        subprocess.run(issue, check=True, stdout=subprocess.DEVNULL)
        for source, target in (
            ("certificate.pem", f"{name}.pem"),
            ("key.pem", f"{name}.key"),
            ("bundle.pem", "bundle.pem"),
        ):
            shutil.copy(out / source, directory / target)


def measure(name: str, directory: Path, server: int, idle_count: int, into: dict[str, list[float]]) -> None:
    with running(name, directory, server) as (port, processes, start):
        into.setdefault("start, both hops, s", []).append(start)
        into.setdefault("at rest, a process, MB PSS", []).append(pss_kilobytes(processes) / len(processes) / 1024)
        echo(port)
        before = cpu_seconds(processes)
        into.setdefault("bulk, 1 connection, MB/s", []).append(bulk(port))
        into.setdefault("bulk, CPU s/GB", []).append((cpu_seconds(processes) - before) / (BULK / 1e9))
        before = cpu_seconds(processes)
        into.setdefault("64 B echo, p50, us", []).append(echo(port))
        into.setdefault("64 B echo, CPU us", []).append((cpu_seconds(processes) - before) / ROUND_TRIPS * 1e6)
        into.setdefault("idle connection, KB PSS", []).append(idle(port, processes, idle_count))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    main()
