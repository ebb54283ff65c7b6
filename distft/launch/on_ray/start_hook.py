"""Called by ``ray start`` with its settings (RAY_START_HOOK), for the one server that no option leaves out.

The Ray Client server would listen on port 10001 of the head whether wanted or not, without the port 0 that all
others take: two jobs whose heads share a node would meet there.
"""

from __future__ import annotations

from typing import Any


def without_client_server(settings: Any, _head: bool) -> None:
    """Takes the port away, and with it the server."""
    settings.ray_client_server_port = None
