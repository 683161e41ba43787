"""
Kafka clients behind ports for each broker: they bootstrap at one, and are told where the others are.

The brokers are kfake's, which speak the protocol and keep what is produced; what they advertise are the mesh's ports,
as ``advertised.listeners`` has a real one do.
"""

from __future__ import annotations

import json
import socket
import sys
import textwrap
from typing import Any

from twisted.internet.defer import maybeDeferred

from tcpmesh.codes import CONNECT_REFUSED
from tests.environments import needs
from tests.integration import go_program
from tests.integration.members import MemberTestCase
from tests.integration.mesh import Proxy, in_thread
from tests.integration.processes import free_port, free_ports
from tests.integration.servers import Server, run, temporary_directory

BROKERS = 3
MESSAGES = 60

# Writes to every partition, reads all of it back, and says who leads what.
CLIENT = textwrap.dedent(
    """
    import json, sys
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    where, count = sys.argv[1], int(sys.argv[2])
    producer = KafkaProducer(bootstrap_servers=[where])
    partitions = sorted(producer.partitions_for("orders"))
    for number in range(count):
        producer.send("orders", value=str(number).encode(), partition=partitions[number % len(partitions)])
    producer.flush()
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=[where], auto_offset_reset="earliest", consumer_timeout_ms=20000)
    assigned = [TopicPartition("orders", partition) for partition in partitions]
    consumer.assign(assigned)
    read = []
    for message in consumer:
        read.append([message.partition, int(message.value)])
        if len(read) == count:
            break
    consumer.close()
    print(json.dumps({"partitions": partitions, "read": read}))
    """
)


class KafkaTests(MemberTestCase):
    """Three brokers, each of which leads one partition of a topic."""

    def start_brokers(self) -> Proxy:
        """Start the brokers, which advertise the mesh's ports, and both proxies."""
        needs("kafka")
        brokers = go_program("kafka_brokers")
        self.ports = free_ports(BROKERS)
        own = [free_port() for _ in self.ports]
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.brokers = Server(
            self,
            [brokers, *(f"{listen}={shown}" for listen, shown in zip(own, self.ports, strict=True))],
            directory=temporary_directory(self),
            standard_io=there,
        )
        there.close()
        here.settimeout(60)
        self.assertEqual(here.recv(100), b"ready\n")
        outer, self.inner = self.start_mesh({"kafka": self.ports}, {"kafka": own})
        return outer

    def run_client(self, number: int) -> dict[str, Any]:
        """Write and read, beginning at one of the ports."""
        where = f"127.0.0.1:{self.ports[number]}"
        ended = run(sys.executable, "-c", CLIENT, where, str(MESSAGES))
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    async def test_carries_what_clients_say_to_each_broker(self) -> None:
        """Everything written to every partition is read back, in order; each broker was reached by its own port."""
        outer = self.start_brokers()
        found = await in_thread(self.run_client, 0)
        self.assertEqual(found["partitions"], list(range(BROKERS)))
        for partition in found["partitions"]:
            read = [value for where, value in found["read"] if where == partition]
            self.assertEqual(read, list(range(partition, MESSAGES, BROKERS)))
        endpoints = [str(each.address) for each in outer.service.composition.state.current.endpoints["kafka"]]
        used = {(each.local_addr, each.dst_addr) for each in outer.tap.open}
        self.assertEqual(
            used, {(f"127.0.0.1:{port}", address) for port, address in zip(self.ports, endpoints, strict=True)}
        )
        self.assertEqual(
            {each.listener for each in self.inner.tap.open}, {f"kafka-{number}" for number in range(BROKERS)}
        )

    async def test_leads_to_no_other_broker_when_one_is_away(self) -> None:
        """Its port is refused; a client that bootstraps elsewhere is still told the same ports."""
        outer = self.start_brokers()
        await maybeDeferred(self.inner.service._ports[2][1].stopListening)  # not at once with every reactor
        away = self.connect(self.ports[2])
        self.assertEqual(await in_thread(_ends, away), "reset")
        record = await outer.closed()
        self.assertEqual((record.code, record.listener), (CONNECT_REFUSED, "kafka"))
        self.assertEqual(record.local_addr, f"127.0.0.1:{self.ports[2]}")


def _ends(connection: socket.socket) -> str:
    try:
        return "end" if connection.recv(1) == b"" else "data"
    except ConnectionResetError:
        return "reset"
