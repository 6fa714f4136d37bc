"""Connections that do not reach link-local and metadata addresses.

What is checked is the address that is then connected to, so that a name that answers differently
the second time gains nothing; each redirect comes by here again.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Sequence

import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds keep credentials, beside the link-local networks.
_METADATA = {ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("fd00:ec2::254")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(Exception):
    """The host's address is closed to tasks."""


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Resolves names itself and connects to what it has checked."""

    def __init__(self, allowed_networks: Sequence[str], *, verify_tls: bool) -> None:
        self._allowed = [ipaddress.ip_network(network) for network in allowed_networks]
        self._inner = httpx2.AsyncHTTPTransport(
            verify=verify_tls,
            trust_env=False,
            # Connections are known by address: kept, one would serve any name at its address.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        addresses = await self._addresses_of(host, request.url.port or _port_of(request.url.scheme))
        request.extensions = {**request.extensions, "sni_hostname": host}
        original = request.url
        try:
            for address in addresses[:-1]:
                request.url = original.copy_with(host=str(address))
                with contextlib.suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                    return await self._inner.handle_async_request(request)
            request.url = original.copy_with(host=str(addresses[-1]))
            return await self._inner.handle_async_request(request)
        finally:
            request.url = original

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _addresses_of(self, host: str, port: int) -> list[Address]:
        """Where the host is, what is best first; raises AddressRefused."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is no host's name"
            raise httpx2.ConnectError(f"cannot resolve {host}: {said}") from error
        addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
        for address in addresses:
            if self.is_closed_to_tasks(address):
                raise AddressRefused(
                    f"{host} is {address}: link-local and metadata addresses are closed to tasks; "
                    "worker.allowed_networks opens them"
                )
        return addresses

    def is_closed_to_tasks(self, address: Address) -> bool:
        """Whether tasks may not reach `address`."""
        address = _unwrapped(address)
        if any(address in network for network in self._allowed):
            return False
        return address.is_link_local or address.is_multicast or address in _METADATA


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _port_of(scheme: str) -> int:
    return 443 if scheme == "https" else 80
