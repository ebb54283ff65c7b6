"""A driver for tests that end it from outside: connects, starts a group, and waits in a call."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from distft.clients.asking import ask
from distft.groups.placement import Deadlines, start_groups
from distft.launch.on_ray.cluster import connect
from tests.ray.conftest import toy
from tests.ray.toy_worker import ToyWorker


def main(folder: Path) -> None:
    with (
        connect(num_cpus=4, object_store_bytes=128 * 2**20, run_dir=folder),
        start_groups(
            [toy("policy", 2)], log_dir=folder / "logs", attempt=1, deadlines=Deadlines(120, 20, 120)
        ) as groups,
    ):
        pids = [worker.pid for worker in groups.workers["policy"]]
        print(os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"]), *pids, flush=True)
        ask(groups["policy"], ToyWorker.linger, [0, 1], 100).result()


if __name__ == "__main__":
    # A shell that runs tests in the background has SIGINT ignored by all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]))
