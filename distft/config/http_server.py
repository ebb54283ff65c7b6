"""A server that a recipe names."""

from __future__ import annotations

from pydantic import Field

from distft.config.section import Section

MOST_CONNECTIONS = 256


class HttpServer(Section):
    """Where a server is, and how it is asked: see ``distft.rollout.json_server``."""

    url: str = Field(pattern=r"^https?://[^\s/]+", description="where requests are sent to by POST")
    token_env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_]\w*$",
        description="environment variable with the token that it is shown (Authorization: Bearer); null: none",
    )  # fmt: skip
    connections: int = Field(default=4, ge=1, le=MOST_CONNECTIONS, description="requests under way at once")
    timeout: float = Field(default=60.0, gt=0, le=3600, description="seconds that one request may take")
