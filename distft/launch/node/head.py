"""The head's launcher: folder, Ray, all nodes, driver, and the word on how it ended."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback

from distft.checkpoint.lease import STALE_S, living
from distft.common.errors import EnvironmentFallsShort, StoppedOnRequest
from distft.common.waiting import wait_until
from distft.launch.node import ending
from distft.launch.node.driver import Driver
from distft.launch.node.ending import Status
from distft.launch.node.network import Address
from distft.launch.node.node_ray import NodeRay
from distft.launch.node.part import LEAVE_S, POLL_S, NodePart
from distft.tracking.jobs import JobRecord, add_job, read_jobs
from distft.tracking.stop_request import forget_request, own_names, read_request

_REPORT_S = 15.0
_SPARE_S = 60.0  # for a node in reserve, which may come later, too


class HeadNode(NodePart):
    """Starts the attempt, runs the driver, and says how it ended."""

    def run(self) -> int:
        """0 once it is said how the attempt ended and all have left: its own exit status would have srun kill what is
        still leaving. Else 1 or more, so that srun ends the nodes that hang.
        """
        self.files.make()
        self._record()
        self.files.write_node(self.job.number, "starting")
        with contextlib.ExitStack() as stack:
            ray: NodeRay | None = None
            try:
                address = self.address(None)
                ray = self.ray(stack, address)
                status = self._attempt(ray, address)
            except Exception as error:
                if not ending.is_expected(error):
                    self.log.say(traceback.format_exc())
                status = Status.of(error)  # it ended here, before the driver had started or without it
                if isinstance(error, StoppedOnRequest) and not error.cancelled:
                    status = Status("stopped", error.exit_status, str(error), why_stopped=self.heard.why)
            status = ending.decided(status, self.job.launch, self.job.run_dir, self.job.restart)
            said = self._say_how(status)
            if ray is not None:
                self.leave(ray, failed=ending.failed(status))
            left = self._let_them_leave()
            self.files.forget_token()
        return 0 if said and left else status.exit_status or 1

    def _attempt(self, ray: NodeRay, address: Address) -> Status:
        job = self.job
        cluster = self.start(ray, None, self._keep_on)
        self.files.write_head(cluster, address.ip)
        self.files.write_node(job.number, "ready")
        self._wait_for_nodes()
        self._wait_for_lease()
        command = ["train", job.recipe_source, *job.overrides, *self._resume()]
        command += ["--cluster", job.cluster_name]
        environment = ray.environment | {"RAY_ADDRESS": cluster}
        if job.end_time is not None:
            environment["DISTFT_END_TIME"] = f"{job.end_time:.0f}"
        self.log.say(f"starting the driver: distft {' '.join(map(repr, command))}")
        with Driver([sys.executable, "-m", "distft.cli", *command], environment) as driver:
            self._watch(driver, ray)
            why, said = self.heard.why, driver.last_lines
            return ending.of_driver(job.run_dir, driver.returncode, driver.started, why, said)

    def _record(self) -> None:
        """A job that was submitted by plain sbatch is written down now, so that the verbs know whom to ask. What a
        person has by salloc is no job of the run: it goes on when the run has ended."""
        names = own_names(os.environ) if os.environ.get("ENVIRONMENT") == "BATCH" else ()
        if names and not {record.job_id for record in read_jobs(self.job.run_dir)} & set(names):
            add_job(self.job.run_dir, JobRecord("slurm", names[0], self.job.cluster.name))

    def _keep_on(self) -> None:
        """While something is waited for: has the attempt ended meanwhile?"""
        request = read_request(self.job.run_dir)
        if request is not None and request.means("", own_names(os.environ)):
            forget_request(self.job.run_dir)
            error = StoppedOnRequest("cancelled before the run started")
            error.cancelled = True
            raise error
        if self.heard.any:
            raise StoppedOnRequest("stopped before the run started")
        self._refuse_failed()

    def _refuse_failed(self) -> None:
        here = self.files.nodes(len(self.job.names))
        failed = {number: said for number, said in here.items() if said["state"] == "failed"}
        if len(failed) > len(self.job.names) - self.job.needed:
            number, said = next(iter(failed.items()))
            raise EnvironmentFallsShort(str(said.get("cause")), where=f"node {self.job.names[number]}")

    def _wait_for_nodes(self) -> None:
        """Until all nodes are here; for those in reserve, once the others are, a little while only."""
        count, told, since = len(self.job.names), -1, time.monotonic()
        enough_since: float | None = None
        while True:
            self._keep_on()
            here = self.files.nodes(count)
            ready = [number for number in range(count) if here.get(number, {}).get("state") == "ready"]
            waiting = ", ".join(_listed([name for number, name in enumerate(self.job.names) if number not in ready]))
            if len(ready) >= self.job.needed:
                enough_since = enough_since or time.monotonic()
                late = time.monotonic() > enough_since + _SPARE_S
                if len(ready) == count or late:
                    without = f"; it starts without {waiting}" if waiting else ""
                    self.log.say(f"{len(ready)} of {count} nodes are here{without}", loud=True)
                    return
            if time.monotonic() > self.deadline:
                silent = [name for number, name in enumerate(self.job.names) if number not in here]
                what = f"{waiting} did not come up within {self.job.recipe.recovery.start_deadline_s:g} s"
                if silent:
                    what += f"; nothing was heard of {', '.join(_listed(silent))}"
                raise EnvironmentFallsShort(
                    what, where="nodes",
                    hint="recovery.start_deadline_s is the deadline; logs/node-<n>.log says how far each node came",
                )  # fmt: skip
            if len(ready) != told or time.monotonic() - since > _REPORT_S:
                told, since = len(ready), time.monotonic()
                self.log.say(f"{told} of {count} nodes are here, waiting for: {waiting}", loud=True)
            time.sleep(POLL_S)

    def _wait_for_lease(self) -> None:
        """A start before this one that was killed still seems to hold the run, until its heartbeat is old enough."""

        def free() -> bool:
            if living(self.job.run_dir) is None:
                return True
            self._keep_on()
            return False

        if self.job.restart:
            wait_until(free, STALE_S + 5.0, every_s=POLL_S)

    def _resume(self) -> list[str]:
        """A job that starts again goes on with its own checkpoints, wherever its first start was told to begin."""
        job = self.job
        first = job.launch.with_name(f"{job.launch.name.rpartition('.')[0]}.0")
        if job.restart and job.recipe.checkpoint.resume != "auto" and ending.saved_since(job.run_dir, first):
            return ["checkpoint.resume=auto"]
        return []

    def _watch(self, driver: Driver, ray: NodeRay) -> None:
        """Until the driver has ended, by itself or because it was told to."""
        told = False
        while not driver.wait(POLL_S):
            if self.heard.any and not told:
                told = True
                sent = "USR1" if self.heard.announced else "SIGTERM"
                self.log.say(f"stopping: {sent} from Slurm; a checkpoint comes first", loud=True)
                driver.ask_to_stop()
            if self.out_of_time:
                self.log.say("the driver has not stopped in the time that Slurm gives, and is killed", loud=True)
                driver.kill()
            if ray.ended:
                self.log.say("Ray has ended on the head's node", loud=True)
                if not driver.wait(LEAVE_S):
                    driver.kill()
                return

    def _say_how(self, status: Status) -> bool:
        text = ending.told(status, self.job.run_dir)
        self.log.say(text)
        try:
            self.files.write_status(status.as_json(), text)
        except OSError as error:
            self.log.say(f"{text}\n(status.json cannot be written: {error})", loud=True)
            return False
        return True

    def _let_them_leave(self) -> bool:
        """Waits until every other node is gone, so that the batch script's turn comes after all of them. Whether
        they are."""

        def all_left() -> bool:
            here = self.files.nodes(len(self.job.names))
            gone = {number for number, said in here.items() if said["state"] == "gone"}
            return len(gone | {self.job.number}) == len(self.job.names)

        def no_time() -> bool:
            return self.files.slurm_ends_it() or self.heard.abandoned

        wait_until(lambda: no_time() or all_left(), LEAVE_S, every_s=POLL_S / 2)
        if not no_time() and all_left():
            return True
        self.log.say("not all nodes said that they left")
        return False


def _listed(names: list[str], most: int = 8) -> list[str]:
    return [*names[:most], f"and {len(names) - most} more"] if len(names) > most else list(names)
