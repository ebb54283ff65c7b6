"""A Ray cluster on the nodes of a bed, as somebody else would have started it: head on the first node, token on."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.cluster.bed import BedFailed, Node, Nodes, Process, environment
from tests.cluster.family import Family

PORT = 6379
JOB_PORT = 8265
TEMPORARY = "/tmp/ray"  # each node's own

_START_S = 120.0
_POLL_S = 0.3


class RayBed:
    """A Ray cluster of these nodes; a context manager.

    ``address`` is for drivers, which run on a node; ``job_address`` for jobs, from any machine. ``env`` is the
    environment with both and the token's path; ``strange_env`` the same without any token.
    """

    def __init__(self, nodes: Nodes, *, cpus: int = 8, gpus: int = 0, object_store_mb: int = 200) -> None:
        self.nodes = nodes
        self._words = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={object_store_mb * 2**20}"]
        self._folder = nodes.state / "ray"
        self.token_path = self._folder / "token"
        self.address = f"{nodes[0].ip}:{PORT}"
        self.job_address = f"http://{nodes[0].ip}:{JOB_PORT}"
        self.strange_env = environment() | {
            "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_worker_niceness": "0",
        }
        self.env = self.strange_env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_path)}
        self._families: dict[str, Family] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700)
        with open(self.token_path, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))
        try:
            for node in self.nodes:
                self.start_node(node)
            self._until_all_alive()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_node(self, node: Node) -> None:
        """Starts Ray on a node: the cluster's head on the first one."""
        part = [f"--address={self.address}"]
        if node is self.nodes[0]:
            part = ["--head", f"--port={PORT}", f"--dashboard-host={node.ip}", f"--dashboard-port={JOB_PORT}"]
            part.append(f"--temp-dir={TEMPORARY}")  # the head's is everybody's
        words = ["start", *part, f"--node-ip-address={node.ip}", "--disable-usage-stats", *self._words]
        ray = [sys.executable, "-m", "ray.scripts.scripts"]  # its command may lie where the nodes see nothing
        # RAY_ADDRESS would be taken for the address of a cluster to join.
        command = ["env", "-u", "RAY_ADDRESS", *ray, *words]
        family = Family(node, command, log=self._folder / f"{node.name}.log", env=self.env)
        self._families[node.name] = family
        deadline = time.monotonic() + _START_S
        while family.status() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if family.status() != 0:
            raise BedFailed(f"{node.name}: ray {' '.join(words)} fails: {family.log.read_text(errors='replace')}")

    def stop(self) -> None:
        """Kills what the cluster has on the nodes, its workers and jobs too, and removes its token."""
        for node in self.nodes:
            self.stop_node(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop_node(self, node: Node) -> None:
        """Kills what the cluster has on a node."""
        if node.name in self._families:
            self._families.pop(node.name).kill()

    def processes(self, node: Node) -> list[Process]:
        """The cluster's processes on a node."""
        return self._families[node.name].processes() if node.name in self._families else []

    def ask(self, path: str, *, token: str | None = None) -> tuple[int, Any]:
        """GET from the dashboard with the cluster's token (or this one): the status, and the JSON if it is one."""
        token = self.token_path.read_text() if token is None else token
        connection = http.client.HTTPConnection(self.nodes[0].ip, JOB_PORT, timeout=10.0)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            body = response.read()
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, None

    def alive(self) -> Sequence[str]:
        """The addresses of the nodes that Ray takes for alive."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = self.ask("/nodes?view=summary")
            if status == http.client.OK:
                return sorted(
                    summary["ip"]
                    for summary in answer["data"]["summary"]
                    if summary.get("raylet", {}).get("state") == "ALIVE"
                )
        return []

    def _until_all_alive(self) -> None:
        deadline = time.monotonic() + _START_S
        while len(self.alive()) < len(self.nodes):
            if time.monotonic() > deadline:
                raise BedFailed(f"of Ray's nodes only {self.alive()} are alive after {_START_S} s")
            time.sleep(_POLL_S)
