"""
A real Redis Cluster, and Redis under Sentinel: their nodes tell clients, and each other, where the others are.

What they tell are the ports of an outbound listener with per_endpoint; so whoever follows it stays in the mesh. What
the nodes say to each other goes through it too.
"""

from __future__ import annotations

import re
from pathlib import Path

from tcpmesh.codes import CLEAN
from tests.integration import program
from tests.integration.members import MemberTestCase
from tests.integration.mesh import MeshTestCase, Proxy, in_thread
from tests.integration.processes import free_port, free_ports
from tests.integration.servers import Server, run, temporary_directory

NODES = 3
MOVED_KEY = "k507"  # of slot 10937, among the first of the third node


class Member:
    """A redis-server, or a sentinel, with a configuration file of its own."""

    def __init__(
        self, case: MeshTestCase, *lines: str, arguments: tuple[str, ...] = (), host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.host = host
        self.port = port or free_port(host)
        self.directory = temporary_directory(case)
        self.cli = program("redis-cli", "redis-server")
        self.file = self.directory / "redis.conf"
        common = (f"port {self.port}", f"bind {host}", f"dir {self.directory}", "daemonize no")
        self.file.write_text("\n".join([*common, *lines]) + "\n")
        self._case = case
        self._arguments = arguments

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command: list[str | Path] = [program("redis-server", "redis-server"), self.file, *self._arguments]
        self.server = Server(self._case, command, directory=self.directory)
        self.server.wait_until(lambda: self.says("PING") == "PONG\n", "Redis is not ready")

    def says(self, *words: str) -> str:
        """What it answers when it is asked past the mesh."""
        return run(self.cli, "-h", self.host, "-p", str(self.port), *words, status=None).stdout.decode()


class ClusterTests(MemberTestCase):
    """Three masters with cluster-announce-ip, cluster-announce-port and cluster-announce-bus-port."""

    async def start_cluster(self) -> Proxy:
        self.ports, self.buses = free_ports(NODES), free_ports(NODES)
        bus_ports = [free_port() for _ in range(NODES)]
        self.nodes = [
            Member(
                self,
                "cluster-enabled yes", 'save ""', "appendonly no", f"cluster-port {bus_ports[number]}",
                "cluster-node-timeout 5000", "cluster-announce-ip 127.0.0.1",
                f"cluster-announce-port {self.ports[number]}", f"cluster-announce-bus-port {self.buses[number]}",
            )
            for number in range(NODES)
        ]  # fmt: skip
        outer, _inner = self.start_mesh(
            {"redis": self.ports, "redis-bus": self.buses},
            {"redis": [node.port for node in self.nodes], "redis-bus": bus_ports},
        )
        self.cli = self.nodes[0].cli
        await in_thread(self.create)
        return outer

    def create(self) -> None:
        """Make the nodes a cluster, past nothing: also redis-cli knows only the mesh's ports."""
        for node in self.nodes:
            node.start()
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        run(self.cli, "--cluster", "create", *addresses, "--cluster-yes")
        for node in self.nodes:
            node.server.wait_until(lambda node=node: "cluster_state:ok" in node.says("CLUSTER", "INFO"), "no cluster")

    async def ask(self, number: int, *words: str) -> str:
        """Ask through the mesh at a port of the range."""
        ended = await in_thread(lambda: run(self.cli, "-p", str(self.ports[number]), *words))
        return ended.stdout.decode()

    async def test_redirects_into_the_mesh(self) -> None:
        """A node sends its client to the mesh's port of the node that has the key; redis-cli -c finds it there."""
        outer = await self.start_cluster()
        moved = await self.ask(0, "SET", "foo", "bar")  # slot 12182, which the third has
        self.assertEqual(moved, f"MOVED 12182 127.0.0.1:{self.ports[2]}\n\n")
        self.assertEqual(await self.ask(0, "-c", "SET", "foo", "bar"), "OK\n")
        self.assertEqual(await self.ask(1, "-c", "GET", "foo"), "bar\n")
        self.assertEqual(await in_thread(self.nodes[2].says, "GET", "foo"), "bar\n")
        used = {(each.local_addr, each.dst_addr) for each in outer.tap.open if each.listener == "redis"}
        endpoints = [str(endpoint.address) for endpoint in outer.service.composition.state.current.endpoints["redis"]]
        self.assertEqual(
            used, {(f"127.0.0.1:{port}", address) for port, address in zip(self.ports, endpoints, strict=True)}
        )

    async def test_spreads_keys_over_all_nodes(self) -> None:
        """A hundred keys, by one client that follows every redirection; each node has its part, and nothing is lost."""
        await self.start_cluster()
        commands = "".join(f"SET key:{number} {number}\n" for number in range(100)).encode()
        await in_thread(lambda: run(self.cli, "-c", "-p", str(self.ports[0]), feed=commands))
        counts = [int(await in_thread(node.says, "DBSIZE")) for node in self.nodes]
        self.assertEqual(sum(counts), 100)
        self.assertTrue(all(count > 10 for count in counts), counts)
        for number in (0, 50, 99):
            self.assertEqual(await self.ask(number % NODES, "-c", "GET", f"key:{number}"), f"{number}\n")

    async def test_carries_what_nodes_say_to_each_other(self) -> None:
        """Each knows the others by the mesh's ports alone, and its links to them are connections of the mesh."""
        outer = await self.start_cluster()
        known = await self.ask(1, "CLUSTER", "NODES")
        found = sorted(re.findall(r" (127\.0\.0\.1:\d+@\d+) ", known))
        self.assertEqual(
            found,
            sorted(f"127.0.0.1:{port}@{bus}" for port, bus in zip(self.ports, self.buses, strict=True)),
        )
        self.assertEqual(known.count(" connected"), NODES)
        used = {each.local_addr for each in outer.tap.open if each.listener == "redis-bus"}
        self.assertEqual(used, {f"127.0.0.1:{port}" for port in self.buses})

    async def test_moves_slots_between_nodes(self) -> None:
        """redis-cli --cluster reshard takes slots with their keys from node to node, through the mesh."""
        await self.start_cluster()
        self.assertEqual(await self.ask(0, "-c", "SET", MOVED_KEY, "bar"), "OK\n")
        third = (await self.ask(2, "CLUSTER", "MYID")).strip()
        first = (await self.ask(0, "CLUSTER", "MYID")).strip()
        where = f"127.0.0.1:{self.ports[0]}"
        await in_thread(
            lambda: run(
                self.cli, "--cluster", "reshard", where, "--cluster-from", third, "--cluster-to", first,
                "--cluster-slots", "50", "--cluster-yes",
            )
        )  # fmt: skip
        self.assertEqual(await self.ask(0, "GET", MOVED_KEY), "bar\n")
        self.assertEqual(await self.ask(1, "-c", "GET", MOVED_KEY), "bar\n")
        self.assertEqual(await in_thread(self.nodes[2].says, "DBSIZE"), "0\n")


class HostnameTests(MemberTestCase):
    """Three masters on hosts of their own that clients know by a name of their own machine, and by the mesh's ports."""

    async def test_redirects_to_a_port_of_the_client_s_machine(self) -> None:
        """cluster-announce-hostname localhost: among themselves nodes use their addresses, and clients the mesh's."""
        ports = free_ports(NODES)
        nodes = [
            Member(
                self,
                "cluster-enabled yes", 'save ""', "appendonly no",
                "cluster-preferred-endpoint-type hostname", "cluster-announce-hostname localhost",
                f"cluster-announce-ip 127.0.0.{number + 2}",
                host=f"127.0.0.{number + 2}", port=port,
            )
            for number, port in enumerate(ports)
        ]  # fmt: skip
        outer, _inner = self.start_mesh({"redis": ports}, {"redis": [f"{node.host}:{node.port}" for node in nodes]})
        cli = nodes[0].cli

        def create() -> None:
            for node in nodes:
                node.start()
            run(cli, "--cluster", "create", *(f"{node.host}:{node.port}" for node in nodes), "--cluster-yes")
            for node in nodes:
                node.server.wait_until(lambda node=node: "cluster_state:ok" in node.says("CLUSTER", "INFO"), "none")

        def ask(number: int, *words: str) -> str:
            return run(cli, "-p", str(ports[number]), *words).stdout.decode()

        await in_thread(create)
        self.assertEqual(await in_thread(ask, 0, "SET", "foo", "bar"), f"MOVED 12182 localhost:{ports[2]}\n\n")
        self.assertEqual(await in_thread(ask, 0, "-c", "SET", "foo", "bar"), "OK\n")
        self.assertEqual(await in_thread(ask, 1, "-c", "GET", "foo"), "bar\n")
        self.assertEqual({each.local_addr for each in outer.tap.open}, {f"127.0.0.1:{port}" for port in ports})


class SentinelTests(MemberTestCase):
    """A master, a replica and three sentinels, each announced by its port in the mesh."""

    async def test_names_the_promoted_replica_by_its_port_in_the_mesh(self) -> None:
        """Before and after a failover; the client asks for the master's address and finds it there."""
        data, watch = free_ports(2), free_ports(3)
        servers = [
            Member(
                self, 'save ""', "appendonly no", "repl-diskless-sync-delay 0", "replica-announce-ip 127.0.0.1",
                f"replica-announce-port {port}",
            )
            for port in data
        ]  # fmt: skip
        sentinels = [
            Member(
                self,
                "sentinel announce-ip 127.0.0.1", f"sentinel announce-port {port}",
                f"sentinel monitor main 127.0.0.1 {data[0]} 2",
                "sentinel down-after-milliseconds main 1000", "sentinel failover-timeout main 5000",
                arguments=("--sentinel",),
            )
            for port in watch
        ]  # fmt: skip
        outer, _inner = self.start_mesh(
            {"redis": data, "sentinel": watch},
            {"redis": [each.port for each in servers], "sentinel": [each.port for each in sentinels]},
        )
        cli = servers[0].cli

        def ask(port: int, *words: str) -> str:
            return run(cli, "-p", str(port), *words, status=None).stdout.decode()

        def master() -> str:
            return ask(watch[1], "SENTINEL", "get-master-addr-by-name", "main")

        def set_up() -> None:
            for each in servers:
                each.start()
            ask(data[1], "REPLICAOF", "127.0.0.1", str(data[0]))
            servers[1].server.wait_until(lambda: "master_link_status:up" in servers[1].says("INFO"), "no replica")
            for each in sentinels:
                each.start()
            for each in sentinels:
                # Each knows the replica, and both other sentinels, by what they announce.
                each.server.wait_until(
                    lambda each=each: re.search(r"status=ok,.*slaves=1,sentinels=3", each.says("INFO", "sentinel")),
                    "the sentinels do not find each other",
                )

        await in_thread(set_up)
        self.assertEqual(await in_thread(master), f"127.0.0.1\n{data[0]}\n")
        self.assertEqual(await in_thread(ask, data[0], "SET", "who", "first"), "OK\n")

        def fail_over() -> None:
            servers[0].server.kill()
            sentinels[1].server.wait_until(lambda: master() == f"127.0.0.1\n{data[1]}\n", "no failover")

        await in_thread(fail_over)
        self.assertEqual(await in_thread(ask, data[1], "GET", "who"), "first\n")
        self.assertEqual(await in_thread(ask, data[1], "SET", "who", "second"), "OK\n")
        clean = [each for each in outer.tap.close if each.listener == "sentinel" and each.code is CLEAN]
        self.assertTrue(clean)
