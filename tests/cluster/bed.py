"""Several machines on this one: each with network, processes, files in /tmp, IPC and a host name of its own.

``with Nodes(2, folder) as nodes:`` makes them and takes them down. A node is a process (``bed_init``)
that is PID 1 of its own PID namespace; whatever runs in the node ends with it, and it ends with this
process, however that ends. What could stay behind is a bridge, which says whose it is: the next bed
removes it when its owner is dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.cluster import bed_init

ROOT = Path(__file__).resolve().parents[2]
LOGIN = "login"

_CLONE_NEWPID = 0x20000000
_TOOLS = ("ip", "mount", "nsenter", "setpriv", "unshare")
_PREFIX = "dftbed"  # of interfaces, whose names have at most 15 characters
_START_S = 30.0
_FIRST_NODE = 11  # last byte of the first node's address; .1 is this machine on the bridge, .2 the login node
_PRIVATE = {"/dev/shm": "1777", "/run": "755", "/tmp": "1777"}
_libc = ctypes.CDLL(None, use_errno=True)


class BedFailed(Exception):
    """The bed cannot be made, or a command in it failed."""


@dataclass(frozen=True)
class Process:
    """A process of a node: its number there, its number here, and its command line."""

    pid: int
    host_pid: int
    command: str


def why_not() -> str | None:
    """Why no bed can be made on this machine, None if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "not root: no right to make network namespaces and to mount"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    # In namespaces that end with the command.
    probe = "mount -t tmpfs t /tmp && ip link add b0 type bridge && ip link add v0 type veth peer name v1"
    unshare = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"]
    tried = subprocess.run([*unshare, "sh", "-c", probe], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"root without the rights it takes: {tried.stderr.strip()}"


class Node:
    """One machine. Made by ``Nodes``."""

    def __init__(self, name: str, ip: str, link: str, bed: Nodes, specification: Mapping[str, Any]) -> None:
        self.name = name
        self.ip = ip
        self._link = link  # this machine's end of its cable
        self._bed = bed
        self._specification = specification
        self._init: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    # ---- running

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command in the node, in a session of its own; signals to the Popen reach the command itself.

        ``env`` is added to this process's environment (without TMPDIR). ``cwd`` is the shared folder if not given.
        """
        if not self.alive:
            raise BedFailed(f"{self.name} is off")
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--ipc", "--uts", "--"]
        command = [*inside, "env", "--chdir", str(cwd or self._bed.folder), "--", *map(str, argv)]
        with _children_in(f"/proc/{self.pid}/ns/pid"):
            process = subprocess.Popen(
                command,
                env=environment() | dict(env or {}),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. Raises BedFailed with its output if it fails (``check``) or takes too long."""
        process = self.start(argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            streams = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            streams = process.communicate()
            raise BedFailed(f"{self.name}: {argv!r} took longer than {timeout} s\n{_text(*streams)}") from None
        if check and process.returncode:
            raise BedFailed(f"{self.name}: {argv!r} ended with {process.returncode}\n{_text(*streams)}")
        out, err = (stream.decode(errors="replace") for stream in streams)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[Process]:
        """What runs in the node: all but its PID 1 and the dead that nobody has buried yet."""
        if not self.alive:
            return []
        space = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended while we looked
                if (folder / "ns" / "pid").stat().st_ino == space and int(folder.name) != self.pid:
                    status = (folder / "status").read_text()
                    inner = re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if inner and not re.search(r"^State:\s+[ZX]", status, re.MULTILINE):
                        found.append(Process(int(inner[1]), int(folder.name), words.strip()))
        return sorted(found, key=lambda process: process.pid)

    # ---- power and cable

    @property
    def pid(self) -> int:
        """This machine's number of the node's PID 1."""
        assert self._init is not None, "the node has not been started"
        return self._init.pid

    @property
    def alive(self) -> bool:
        """Whether the node is on."""
        return self._init is not None and self._init.poll() is None

    def kill(self) -> None:
        """Power off: everything in the node dies at once, and nobody is told.

        The cable goes first: the kernel would close the connections of what it kills, which silence does not.
        """
        if self._init is not None:
            with contextlib.suppress(BedFailed):  # it went with the node, if that was off already
                _ip("link", "delete", self._link)
            self._init.kill()
            # The kernel ends PID 1 only when all have been buried, and these are our children.
            for process in [*self._started, self._init]:
                process.wait(timeout=_START_S)
            self._started.clear()

    def boot(self) -> None:
        """Power on, at first or again: with nothing running, and nothing in the folders that are its own."""
        spaces = ["--mount", "--net", "--ipc", "--uts", "--mount-proc"]
        init = [sys.executable, "-I", bed_init.__file__, json.dumps(self._specification)]
        with _children_in(None):
            self._init = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "--", *init],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        stdout, stderr = self._init.stdout, self._init.stderr
        assert stdout is not None
        assert stderr is not None
        with stdout, stderr:
            select.select([stdout], [], [], _START_S)
            if not self.alive or stdout.readline().strip() != bed_init.READY.encode():
                self._init.kill()
                raise BedFailed(f"{self.name} does not start: {stderr.read().decode(errors='replace')}")
        self._plug_in()

    def link_down(self) -> None:
        """Pulls the network cable."""
        _ip("link", "set", self._link, "down")

    def link_up(self) -> None:
        """Plugs it in again."""
        _ip("link", "set", self._link, "up")

    def _plug_in(self) -> None:
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        _ip("link", "set", self._link, "master", self._bed.bridge, "up")
        inside = ["nsenter", "--target", str(self.pid), "--net", "ip"]
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.ip}/{self._bed.network.prefixlen}", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            _checked([*inside, *words])


class Nodes:
    """``count`` machines n1, n2, ... and ``login`` on one network, on which this machine is too.

    All see the same ``folder`` (the cluster's shared file system), the checkout, the Python environment and
    ``visible``, at the same paths; /tmp, /run and /dev/shm are each node's own. There is no default route.
    """

    def __init__(self, count: int, folder: Path, *, visible: Sequence[Path] = (), tmp_size: str = "50%") -> None:
        self.folder = folder.absolute()
        # An environment may lie on top of another, whose packages it names in a .pth file.
        packages = [Path(folder) for folder in sys.path if Path(folder).is_dir()]
        self._visible = [self.folder, ROOT, Path(sys.prefix), Path(sys.base_prefix), *packages, *visible]
        self._tmp_size = tmp_size
        self._count = count
        self.bridge = ""
        self.network = ipaddress.IPv4Network("0.0.0.0/0")
        self._all: list[Node] = []
        self._closing = contextlib.ExitStack()
        self.state = Path()  # of the bed itself: short, seen by all nodes, gone afterwards

    def __enter__(self) -> Self:
        reason = why_not()
        if reason is not None:
            raise BedFailed(reason)
        remove_stale()
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.state = Path(tempfile.mkdtemp(prefix="bed-"))
            stack.callback(shutil.rmtree, self.state, ignore_errors=True)
            self.bridge, self.network = _make_bridge(self.state)
            stack.callback(_ip, "link", "delete", self.bridge)
            self._make_nodes(stack)
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all[1:])

    def __getitem__(self, index: int) -> Node:
        return self._all[1:][index]

    @property
    def login(self) -> Node:
        """The machine of the cluster's own services: not one that jobs run on."""
        return self._all[0]

    @property
    def address(self) -> str:
        """This machine's address on the nodes' network."""
        return str(self.network[1])

    def _make_nodes(self, stack: contextlib.ExitStack) -> None:
        names = [LOGIN, *(f"n{number}" for number in range(1, self._count + 1))]
        ips = [str(self.network[number]) for number in (2, *range(_FIRST_NODE, _FIRST_NODE + self._count))]
        hosts = self.state / "hosts"
        known = [f"{ip} {name}" for name, ip in zip(names, ips, strict=True)]
        hosts.write_text("\n".join(["127.0.0.1 localhost", "::1 localhost ip6-localhost", *known, ""]))
        for name, ip in zip(names, ips, strict=True):
            stage = self.state / f"stage-{name}"
            stage.mkdir()
            given = {"name": name, "hosts": str(hosts), "stage": str(stage), "private": self._private()}
            node = Node(name, ip, f"{self.bridge}{name}", self, given)
            self._all.append(node)
            stack.callback(node.kill)
            node.boot()

    def _private(self) -> list[dict[str, Any]]:
        """The folders that are each node's own, with the paths below them that all see nevertheless."""
        paths = {path for given in [*self._visible, self.state] for path in (given.absolute(), given.resolve())}
        outer = [path for path in paths if not any(other in path.parents for other in paths)]
        return [
            {
                "folder": folder,
                "mode": mode,
                "size": self._tmp_size,
                "visible": [str(path) for path in outer if Path(folder) in path.parents],
            }
            for folder, mode in _PRIVATE.items()
        ]


def environment() -> dict[str, str]:
    """What commands of a bed inherit: this process's environment, without its temporary folder and pytest's own."""
    own = {name: value for name, value in os.environ.items() if name != "TMPDIR" and not name.startswith("PYTEST_")}
    return own | {"PATH": f"{Path(sys.executable).parent}:{own.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def remove_stale() -> None:
    """Removes what is left of beds whose process is dead. Whoever is in another PID namespace is not judged."""
    for link in json.loads(_ip("-json", "link", "show", "type", "bridge") or "[]"):
        words = str(link.get("ifalias", "")).split(" ", 4)
        if len(words) == 5 and words[0] == _PREFIX and words[1] == _pid_space() and words[3] != _started_at(words[2]):
            with contextlib.suppress(BedFailed):  # another bed was quicker
                _ip("link", "delete", link["ifname"])
            if Path(words[4]).name.startswith("bed-"):
                shutil.rmtree(words[4], ignore_errors=True)


def _make_bridge(state: Path) -> tuple[str, ipaddress.IPv4Network]:
    """A bridge of a number that nobody has, its network, and this machine's address in it."""
    routes = [
        ipaddress.IPv4Network(route["dst"])
        for route in json.loads(_ip("-json", "-4", "route", "show", "table", "all") or "[]")
        if re.fullmatch(r"[0-9./]+", route["dst"])
    ]
    for number in range(256):
        name, network = f"{_PREFIX}{number}", ipaddress.IPv4Network(f"10.213.{number}.0/24")
        if any(route.subnet_of(network) for route in routes):
            continue
        try:
            _ip("link", "add", name, "type", "bridge")  # refused where it exists: that decides between two beds
        except BedFailed:
            continue
        try:
            owner = f"{_PREFIX} {_pid_space()} {os.getpid()} {_started_at(str(os.getpid()))} {state}"
            _ip("link", "set", name, "alias", owner)
            _ip("address", "add", f"{network[1]}/{network.prefixlen}", "dev", name)
            _ip("link", "set", name, "up")
        except BaseException:
            _ip("link", "delete", name)
            raise
        return name, network
    raise BedFailed("no network of 10.213.0.0/16 is free")


def _pid_space() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _started_at(pid: str) -> str:
    """When a process was started, in the kernel's clock ticks; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@contextlib.contextmanager
def _children_in(space: str | None) -> Iterator[None]:
    """Children that this thread starts in the block are in that PID namespace, in a new one if None.

    So they are ours to wait for and to signal, which they would not be behind ``nsenter --pid``.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if space is None:
            _system("unshare", _CLONE_NEWPID)
        else:
            other = os.open(space, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _system("setns", other, _CLONE_NEWPID)
            finally:
                os.close(other)
        try:
            yield
        finally:
            _system("setns", own, _CLONE_NEWPID)
    finally:
        os.close(own)


def _system(call: str, *arguments: int) -> None:
    if getattr(_libc, call)(*arguments) != 0:
        number = ctypes.get_errno()
        raise BedFailed(f"{call}: {os.strerror(number)}")


def _ip(*words: str) -> str:
    return _checked(["ip", *words])


def _checked(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BedFailed(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _text(*streams: bytes) -> str:
    return "\n".join(stream.decode(errors="replace") for stream in streams)
