"""Connecting to what is no broker, or does not let us in; the rest is shown with the listener."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

import pytest
from gmqtt.mqtt.handler import MQTTConnectError

from devices.broker import BrokerLogin
from servwatch_site.tests.broker import MqttClient, RunningBroker
from streams.connectors import mqtt_client
from streams.connectors.mqtt_client import ListenerClient, Packet

LOGIN = BrokerLogin("listener", "right", ("read #",))
SENDER = BrokerLogin("device", "right", ("write #",))
BUFFER_BYTES = 2 * 64 * 1024  # the most that the stream reader of gmqtt takes in by itself
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def client(
    password: str,
    on_packets: Callable[[ListenerClient, Sequence[Packet]], None] = lambda _client, _packets: None,
) -> ListenerClient:
    return ListenerClient(
        client_id="probe",
        user="listener",
        password=password,
        version=4,
        subscriptions=[("a/#", 1)],
        on_packets=on_packets,
        on_connected=lambda _client, _present: None,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until it is so."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0)


async def connect_to(serve: Serve, *, timeout_s: float) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        trying = client("right")
        try:
            await trying.connect("127.0.0.1", port, tls=False, timeout_s=timeout_s)
        finally:
            await trying.close()


def test_a_connection_that_is_closed_instead_of_answered_is_told_at_once() -> None:
    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with pytest.raises(OSError, match="closed the connection without an answer"):
        asyncio.run(connect_to(close, timeout_s=60))


def test_a_server_that_does_not_answer_is_told_in_words() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    with pytest.raises(OSError, match="no answer within 0 s"):
        asyncio.run(connect_to(ignore, timeout_s=0.2))


def test_a_refusal_is_told_as_one() -> None:
    async def connect(port: int) -> None:
        trying = client("wrong")
        try:
            await trying.connect("127.0.0.1", port, tls=False, timeout_s=20)
        finally:
            await trying.close()

    with RunningBroker(lambda: [LOGIN]) as broker, pytest.raises(MQTTConnectError):
        asyncio.run(connect(broker.port))


def test_a_broker_that_says_nothing_more_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_client, "KEEPALIVE_S", 1)

    async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"\x20\x02\x00\x00")  # CONNACK
        while await reader.read(1024):
            pass
        writer.close()

    async def connect() -> None:
        server = await asyncio.start_server(fall_silent, "127.0.0.1", 0)
        async with server:
            connected = client("right")
            await connected.connect("127.0.0.1", server.sockets[0].getsockname()[1], tls=False, timeout_s=20)
            async with asyncio.timeout(30):
                await connected.lost.wait()
            await connected.close()

    asyncio.run(connect())


def test_a_broker_that_reads_late_is_not_given_up_for_it() -> None:
    """In a flood its window may stay shut for half a minute."""

    async def connect(port: int) -> int:
        connected = client("right")
        await connected.connect("127.0.0.1", port, tls=False, timeout_s=20)
        sock = connected._client._connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        timeout_ms = int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        await connected.close()
        return timeout_ms

    with RunningBroker(lambda: [LOGIN]) as broker:
        assert asyncio.run(connect(broker.port)) > 60_000


def test_with_the_brake_on_the_broker_keeps_what_is_not_read() -> None:
    """A queue in the broker far larger than the buffers on the way; braked at the first message."""
    count, payload = 4_000, bytes(1_000)
    told: list[Packet] = []

    def take(braking: ListenerClient, packets: Sequence[Packet]) -> None:
        if not told:
            braking.brake(True)
        told.extend(packets)
        braking.acknowledge([packet.packet_id for packet in packets])

    async def read(port: int) -> int:
        connected = client("right", on_packets=take)
        await connected.connect("127.0.0.1", port, tls=False, timeout_s=20)
        protocol = connected._client._connection._protocol
        async with asyncio.timeout(30):
            # Nobody reads: the buffer in front of the socket stays full, and the socket is left alone.
            await until(
                lambda: (
                    not protocol._transport.is_reading()
                    and len(protocol._hard_reader._buffer) >= BUFFER_BYTES
                )
            )
            braked = len(told)
            connected.brake(False)
            await until(lambda: len(told) == count)
        await connected.close()
        return braked

    async def subscribe(port: int) -> None:
        first = client("right")
        await first.connect("127.0.0.1", port, tls=False, timeout_s=20)
        async with asyncio.timeout(20):
            await first.subscribed.wait()
        await first.close()

    with RunningBroker(lambda: [LOGIN, SENDER]) as broker:
        asyncio.run(subscribe(broker.port))
        with MqttClient(broker.port, user="device", password="right") as sender:
            for info in [sender.publish("a/b", payload) for _ in range(count)]:
                info.wait_for_publish(timeout=20)
        assert 0 < asyncio.run(read(broker.port)) < 200
