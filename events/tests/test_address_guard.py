"""Where our own requests may go."""

import asyncio
from ipaddress import ip_network
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from events.address_guard import address_is_allowed
from events.http_client import REFUSED, Answer, HttpClient
from events.notifiers.shape import HttpRequest
from events.tests.outbox import lookup_of
from events.tests.receiver import Receiver
from servwatch_site.env import env_networks

PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",  # noqa: S104 - refused, not bound
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "fe80::1",
    "fe80::1%2",
    "fec0::1",
    "fc00::1",
    "fd12::1",
    "ff02::1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001::1",
    "2001:db8::1",
    "100::1",
    "3fff::1",
    "localhost",
    "x",
    "1",
    "127.1",
    "0x7f.1",
    "2130706433",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "::ffff:8.8.8.8",
    "2606:4700::1111",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not address_is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_allowed(address: str) -> None:
    assert address_is_allowed(address)


def test_named_networks_are_allowed_and_no_others() -> None:
    allow = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")]
    for address, allowed in (
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.2.0.1", False),
        ("fd00:1::5", True),
        ("fd00:2::5", False),
        ("127.0.0.1", False),
    ):
        assert address_is_allowed(address, allow=allow) is allowed, address


SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "0",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[0:0::ffff:7f00:1]",
    "127.0.0.1.",
    "LOCALHOST",
    "%6c%6f%63%61%6c%68%6f%73%74",
    "1②7.0.0.1",
]


@pytest.mark.parametrize("host", SPELLINGS)
def test_loopback_is_not_reached_in_any_spelling(host: str) -> None:
    with Receiver() as receiver:
        answer = sent(f"http://{host}:{receiver.port}/", allow=[])
        assert (answer.ok, answer.status_code) == (False, None)
        assert receiver.received == []


def test_it_says_how_to_allow_an_address() -> None:
    with Receiver() as receiver:
        assert sent(receiver.url, allow=[]).error == REFUSED
        assert sent(receiver.url, allow=[ip_network("127.0.0.1/32")]).ok


def test_the_address_that_is_connected_to_counts_not_the_one_looked_up_before() -> None:
    """A name that first leads to an allowed address and then to another one, at every turn."""
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"])
    with Receiver() as allowed, Receiver(host="127.0.0.2", port=allowed.port) as inner:
        lookup = lookup_of(lambda _host: next(answers))
        outcomes = [
            sent(
                f"http://rebind.example.org:{allowed.port}/",
                allow=[ip_network("127.0.0.1/32")],
                lookup=lookup,
            )
            for _ in range(4)
        ]
        assert [outcome.ok for outcome in outcomes] == [True, False, True, False]
        assert (len(allowed.received), len(inner.received)) == (2, 0)


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert sent(receiver.url, allow=[ip_network("127.0.0.0/8")]).ok


def test_the_setting_is_a_list_of_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVWATCH_WEBHOOK_ALLOW", "10.1.0.0/16, ::1 ,192.168.1.7")
    assert [str(network) for network in env_networks("SERVWATCH_WEBHOOK_ALLOW")] == [
        "10.1.0.0/16",
        "::1/128",
        "192.168.1.7/32",
    ]
    for nonsense in ("10.1.0.1/16", "example.org", "10.0.0.0/33", "yes"):
        monkeypatch.setenv("SERVWATCH_WEBHOOK_ALLOW", nonsense)
        with pytest.raises(ImproperlyConfigured, match=r"SERVWATCH_WEBHOOK_ALLOW must be a list of networks"):
            env_networks("SERVWATCH_WEBHOOK_ALLOW")
    monkeypatch.delenv("SERVWATCH_WEBHOOK_ALLOW")
    assert env_networks("SERVWATCH_WEBHOOK_ALLOW") == []


def sent(url: str, **client: Any) -> Answer:
    return asyncio.run(_sent(url, **client))


async def _sent(url: str, **client: Any) -> Answer:
    http = HttpClient(**client)
    try:
        return await http.send(HttpRequest(url, b"{}"))
    finally:
        await http.close()
