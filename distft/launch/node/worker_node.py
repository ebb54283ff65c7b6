"""The launcher of every node but the first: brings the node into the cluster, and takes it out again."""

from __future__ import annotations

import contextlib
import time
import traceback

from distft.common.errors import EnvironmentFallsShort, StoppedOnRequest
from distft.common.waiting import wait_until
from distft.launch.node import ending
from distft.launch.node.files import HEAD
from distft.launch.node.node_ray import NodeRay
from distft.launch.node.part import LEAVE_S, POLL_S, NodePart
from distft.tracking.last_ending import STATUS


class _Over(Exception):  # not an error: the head has said how it ended
    pass


class WorkerNode(NodePart):
    """Brings this node's Ray into the cluster and keeps it there until the attempt has ended."""

    def run(self) -> int:
        """0 once the head has said how it ended; 1 where it never did."""
        ended = False
        with contextlib.ExitStack() as stack:
            ray: NodeRay | None = None
            try:
                ray = self._join(stack)
                ended = self._stay(ray)
            except _Over:
                ended = True
            except Exception as error:
                cause = str(error) if ending.is_expected(error) else f"{type(error).__name__}: {error}"
                self.log.say(cause if ending.is_expected(error) else traceback.format_exc())
                self.files.write_node(self.job.number, "failed", cause=cause)
                ended = self._wait_for_status(LEAVE_S)
            status = self.files.read(STATUS)
            if ray is not None:
                well = status is not None and status["exit_status"] in (0, StoppedOnRequest.exit_status)
                self.leave(ray, failed=not well)
        self.files.write_node(self.job.number, "gone")
        self.log.say("left" if ended else "left, without word from the head")
        return 0 if ended else 1

    def _join(self, stack: contextlib.ExitStack) -> NodeRay:
        self.log.say("waiting for the head")
        while (head := self.files.read(HEAD)) is None:
            self._keep_on()
            if time.monotonic() > self.deadline:
                raise EnvironmentFallsShort(
                    f"the head ({self.job.names[0]}) did not come up within its deadline", where=self.job.name
                )
            time.sleep(POLL_S)
        self.files.write_node(self.job.number, "starting")
        ray = self.ray(stack, self.address(head["ip"]))
        self.start(ray, head["address"], self._keep_on)
        self.files.write_node(self.job.number, "ready")
        return ray

    def _keep_on(self) -> None:
        if self.files.read(STATUS) is not None:
            raise _Over
        if self.out_of_time:
            raise StoppedOnRequest("Slurm ends the job")

    def _stay(self, ray: NodeRay) -> bool:
        while self.files.read(STATUS) is None:
            if ray.ended:
                said = "\n    ".join(ray.last_lines())
                self.log.say(f"Ray has left this node:\n    {said}")
                self.files.write_node(self.job.number, "failed", cause="Ray has left this node")
                return self._wait_for_status(LEAVE_S)
            self._keep_on()
            time.sleep(POLL_S)
        return True

    def _wait_for_status(self, seconds: float) -> bool:
        def said() -> bool:
            return self.files.read(STATUS) is not None

        return wait_until(lambda: self.out_of_time or said(), seconds, every_s=POLL_S) and said()
