"""Which address of this node the others reach it by, and the name of the interface that carries it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from distft.common.errors import EnvironmentFallsShort


@dataclass(frozen=True)
class Address:
    """An IPv4 address of this node and its interface."""

    ip: str
    interface: str


def node_address(interface: str | None, *, name: str, others: Sequence[str], head: str | None) -> Address:
    """The address for Ray and for the collectives.

    ``interface``: the cluster file's; it decides. Else a worker takes the address from which it reaches the
    ``head``'s; the head takes what its own ``name`` stands for, else the address from which it reaches one of the
    ``others``, else what Slurm knows it by. Loopback only where there are no others.

    Raises EnvironmentFallsShort, naming the interfaces that are there.
    """
    there = interfaces()
    if interface is not None:
        found = [ip for ip, its in there.items() if its == interface]
        if not found:
            raise EnvironmentFallsShort(
                f"there is no interface {interface} with an IPv4 address on {name}; there are {_said(there)}",
                where="network.interface",
                hint="ip -brief address shows them; null lets the launcher choose",
            )
        return Address(found[0], interface)
    for ip in _candidates(name, others, head):
        if ip in there and (not others or not ipaddress.ip_address(ip).is_loopback):
            return Address(ip, there[ip])
    if not others:
        loopback = next((ip for ip in there if ipaddress.ip_address(ip).is_loopback), None)
        if loopback is not None:
            return Address(loopback, there[loopback])
    raise EnvironmentFallsShort(
        f"no address of {name} leads to the other nodes; there are {_said(there)}",
        where="network.interface",
        hint="name the interface in the cluster file",
    )


def interfaces() -> dict[str, str]:
    """The IPv4 addresses of this node, each with its interface's name."""
    import psutil

    return {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def source_towards(host: str) -> str | None:
    """The address that packets to ``host`` would be sent from; None without a route or where the name is unknown."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # of UDP nothing is sent
            return str(probe.getsockname()[0])
        except (OSError, UnicodeError):
            return None


def _candidates(
    name: str, others: Sequence[str], head: str | None, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    if head is not None:
        if (ip := source_towards(head)) is not None:
            yield ip
        return
    with contextlib.suppress(OSError, UnicodeError):
        yield socket.gethostbyname(name)
    for other in others[:3]:
        if (ip := source_towards(other)) is not None:
            yield ip
    if ip := environment.get("SLURM_LAUNCH_NODE_IPADDR"):  # of the node where srun was called: the head's
        yield ip


def _said(there: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({ip})" for ip, name in there.items()) or "none"
