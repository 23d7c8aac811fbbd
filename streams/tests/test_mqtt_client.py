"""Connecting to what is no broker, or does not let us in; the rest is shown with the listener."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from gmqtt.mqtt.handler import MQTTConnectError

from devices.broker import BrokerLogin
from servwatch_site.tests.broker import RunningBroker
from streams.connectors.mqtt_client import ListenerClient

LOGIN = BrokerLogin("listener", "right", ("read #",))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def client(password: str) -> ListenerClient:
    return ListenerClient(
        client_id="probe",
        user="listener",
        password=password,
        version=4,
        subscriptions=[("a/#", 1)],
        on_packets=lambda _client, _packets: None,
        on_connected=lambda _client, _present: None,
    )


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


def test_a_broker_that_vanishes_is_missed_within_seconds() -> None:
    async def connect(port: int) -> int:
        connected = client("right")
        await connected.connect("127.0.0.1", port, tls=False, timeout_s=20)
        sock = connected._client._connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        timeout_ms = int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        await connected.close()
        return timeout_ms

    with RunningBroker(lambda: [LOGIN]) as broker:
        assert asyncio.run(connect(broker.port)) == 20_000
