"""What others on the machine and in the network see of processes: their command lines, and the ports they listen on."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil


def assert_hidden(pids: Sequence[int], secrets: Sequence[str]) -> None:
    """No command line holds a secret, Ray's token among them, and nothing listens to other machines."""
    found = list(_listening(pids))
    assert len(found) >= 6, f"Ray's servers and the stores of ranks, not {found}"
    assert [one for one in found if not _of_this_machine(one[1])] == []
    (token,) = {_token(pid) for pid in pids} - {b""}
    for pid in pids:
        with contextlib.suppress(OSError):
            said = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert not [secret for secret in (token, *(one.encode() for one in secrets)) if secret in said], said


def _listening(pids: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """Process, address and port of every socket that takes what comes."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN or (one.type == socket.SOCK_DGRAM and not one.raddr):
                    yield " ".join(process.cmdline())[:80], one.laddr.ip, one.laddr.port


def _of_this_machine(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _token(pid: int) -> bytes:
    """Of the Ray that a process belongs to; b"" for none."""
    with contextlib.suppress(OSError):
        for setting in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = setting.partition(b"=")
            if name == b"RAY_AUTH_TOKEN_PATH":
                return Path(value.decode()).read_bytes()
    return b""
