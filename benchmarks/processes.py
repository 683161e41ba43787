"""What processes cost, read from /proc (proc(5)): CPU time, memory, and where they listen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen

_TICK = os.sysconf("SC_CLK_TCK")


@frozen
class Memory:
    """Of one or several processes, in bytes."""

    pss: int  # a page that n processes share counts as 1/n
    rss: int


def family(pids: Iterable[int]) -> list[int]:
    """The processes and all their living descendants."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.append(pid)
            waiting += children.get(pid, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads of these processes and of their descendants.

    A descendant that has ended counts as soon as its parent has waited for it.
    """
    ticks = 0
    for pid in family(pids):
        if fields := _stat(pid):
            ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / _TICK


def machine_cpu_seconds() -> float:
    """What all processors together have been busy with, the kernel's interrupts included."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / _TICK


def memory(pids: Iterable[int]) -> Memory:
    """Of these processes and their descendants.

    :raises RuntimeError: when one of ``pids`` has ended.
    """
    pids = tuple(pids)
    pss = rss = 0
    for pid in family(pids):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            if pid in pids:
                raise RuntimeError(f"process {pid} has ended while its memory was read") from None
            continue
        values = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE))
        pss += int(values["Pss"]) * 1024
        rss += int(values["Rss"]) * 1024
    return Memory(pss, rss)


def listening_ports(pids: Iterable[int]) -> list[int]:
    """TCP ports of 127.0.0.1 on which these processes or their descendants listen."""
    sockets = {link for pid in family(pids) for link in _links(pid)}
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            ports.add(int(fields[1].partition(":")[2], 16))
    return sorted(ports)


def _all_pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on (state is number 0); None if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _links(pid: int) -> Iterator[str]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for entry in entries:
        try:
            yield str(entry.readlink())
        except FileNotFoundError:
            continue
