"""What a Ray of our own starts, and what not: ``ray start`` calls ``lean`` with its settings (RAY_START_HOOK).

The Ray Client server would listen on port 10001 of the head whether wanted or not, without the port 0 that all
others take: two jobs whose heads share a node would meet there. The log monitor would send our ranks' output to the
driver and the autoscaler start nodes; neither has anything to do, and each imports Ray. Workers are started by our
own script, which does not.
"""

from __future__ import annotations

from typing import Any

from distft.groups import worker_start


def lean(settings: Any, _head: bool) -> None:
    """Leaves out the servers that no option leaves out."""
    settings.ray_client_server_port = None
    settings.include_log_monitor = False
    settings.no_monitor = True
    settings.setup_worker_path = worker_start.__file__
