"""Asks a Ray agent, without the token, to run a job: the one answer that lets a run go on is 401.

Every node's agent listens on the node's address. Without token authentication anyone on the network runs commands
there as this user. Standard library only.
"""

from __future__ import annotations

import http.client
from typing import Any

from distft.common.errors import EnvironmentFallsShort

_PROBE_S = 30.0


def refuse_strangers(host: str, port: int, where: str) -> None:
    """Raises EnvironmentFallsShort for any answer but 401; ``where`` names the cluster or node in the message."""
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_S)
    try:
        connection.request("POST", "/api/job_agent/jobs/", body=b"{}", headers={"Content-Type": "application/json"})
        status: Any = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        status = repr(error)
    finally:
        connection.close()
    if status != http.client.UNAUTHORIZED:
        raise EnvironmentFallsShort(
            f"Ray's agent on {host}:{port} answered {status}, not 401, to a request without a token",
            where=where,
            hint="anyone who reaches this port could run commands as you; is the pinned Ray version installed?",
        )
