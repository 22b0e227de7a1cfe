"""Which addresses a sink may not have: those where clouds serve credentials.

Whoever may write a sink must not be able to make the operator talk to its cloud's metadata
service. Checked on the addresses that a connection is about to be made to, not on names.
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
    """Whether an IP address is link-local or a cloud's metadata service, in whatever notation.

    Raises ValueError for what is not an IP address.
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
        f"{host} is a link-local address, where clouds serve credentials;"
        " give the sink another host"
    )


async def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host, in the system's order; connect to these, not to the name again.

    Raises AddressNotAllowed when any of them is forbidden, Unavailable when there are none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"look up {host}: {error}") from error
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if any(is_forbidden(address) for address in addresses):
        raise address_not_allowed(host)
    return addresses
