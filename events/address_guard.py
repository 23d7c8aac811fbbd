"""Which addresses our own requests may go to: public ones, and networks that the operator names. Pure.

Whoever can name the address of a webhook could otherwise reach what only this machine may: its own services, the
database, a cloud's metadata.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What Python's own properties leave open: special uses, tunnels to them, and addresses that carry an IPv4 address.
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
_NAT64 = ip_network("64:ff9b::/96")


class AddressRefused(OSError):
    """Nothing may be sent to this address."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is not allowed")


def address_is_allowed(text: str, *, allow: Sequence[Network] = ()) -> bool:
    """Whether a request may go to this address, written as the operating system writes it (`10.0.0.1`, `fe80::1%2`).

    An IPv6 address that stands for an IPv4 one is judged as that one.
    """
    try:
        address = _meant(ip_address(text.partition("%")[0]))
    except ValueError:
        return False
    if any(address in network for network in allow):
        return True
    return _is_public(address)


def guarded_socket_factory(allow: Sequence[Network]) -> Callable[[Any], socket.socket]:
    """Makes the socket for one address, as aiohttp asks for it: the address it is given is the one connected to.

    It raises AddressRefused instead where that is not allowed, however the address was written in the URL and
    whatever the name resolved to a moment ago.
    """

    def make(address_info: Any) -> socket.socket:
        family, kind, protocol, _name, address = address_info
        if not address_is_allowed(str(address[0]), allow=allow):
            raise AddressRefused
        return socket.socket(family=family, type=kind, proto=protocol)

    return make


def _meant(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    refused = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or any(address in network for network in _SPECIAL)
    )
    return address.is_global and not refused
