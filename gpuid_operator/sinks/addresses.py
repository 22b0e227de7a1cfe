"""Addresses that a sink must not have because clouds serve credentials there.

A user who may write a sink must not be able to make the operator connect to the metadata service
of its cloud. The check applies to the resolved addresses before a connection, not to names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final

from gpuid_operator.sinks.base import AddressNotAllowed, Unavailable

_FORBIDDEN: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",  # AWS: metadata (::254), credentials (::23), time, DNS
        "fd20:ce::254/128",  # Google Cloud
        "168.63.129.16/32",  # Azure: WireServer
        "100.100.100.200/32",  # Alibaba Cloud
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


def is_forbidden(address: str) -> bool:
    """Whether an IP address is link-local or a metadata service of a cloud, in any notation.

    Raises ValueError if `address` is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    candidates: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        candidates += [inner for inner in embedded if inner is not None]
    return any(
        inner in network
        for inner in candidates
        for network in _FORBIDDEN
        if inner.version == network.version
    )


def address_not_allowed(host: str) -> AddressNotAllowed:
    """The error for a host that has a forbidden address."""
    return AddressNotAllowed(
        f"{host} is a link-local address, where clouds serve credentials; use another host"
    )


async def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host, in the order of the system. Connect to these, not to the name.

    Raises AddressNotAllowed if any address is forbidden, Unavailable if there are none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"failed to look up {host}: {error}") from error
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if any(is_forbidden(address) for address in addresses):
        raise address_not_allowed(host)
    return addresses
