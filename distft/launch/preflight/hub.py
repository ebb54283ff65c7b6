"""Is a name on the hub? Asked before anything is started, and for no longer than a few seconds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distft.common.errors import EnvironmentFallsShort, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PATIENCE_S = 5.0
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_FETCH = {
    "model": "hf download {name}, or for all that a recipe names distft fetch RECIPE; then the same command with "
    "HF_HUB_OFFLINE=1",
    "dataset": "distft fetch RECIPE, or hf download {name} --repo-type dataset --local-dir FOLDER and FOLDER as the "
    "path",
}

Kind = Literal["model", "dataset"]


def is_offline() -> bool:
    """Whether the environment says that the hub is not to be asked."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def check_on_hub(kind: Kind, name: str, *, where: str, near: str = "") -> str:
    """The warning that ``name`` will be fetched. ``near``: what else may have been meant, for the message.

    Raises UserError where the hub has nothing of that name, EnvironmentFallsShort where it does not answer.
    """
    error = _asked(kind, name)
    if error is None:
        return f"{name} is not on this machine and will be fetched from the hub"
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        raise UserError(
            f"{name} is neither a folder here nor a {kind} of the hub",
            where=where,
            hint=near or "give a folder or a hub name (owner/name); a private one needs HF_TOKEN",
        )
    fetch = _FETCH[kind].format(name=name.partition(":")[0])
    raise EnvironmentFallsShort(
        f"{name} is not on this machine, and the hub does not answer ({_said(error)})",
        where=where,
        hint=f"{near}{' Else, ' if near else ''}where there is a network: {fetch}",
    )


def in_datasets_cache(name: str) -> bool:
    """Whether the data set has been read on this machine before: its library finds it again without a network."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")
    return (Path(cache).expanduser() / name.partition(":")[0].replace("/", "___")).is_dir()


def asked_within(seconds: float, ask: Callable[[], Any]) -> Exception | None:
    """What the hub's answer raises, TimeoutError where there is none by then: a name server that is silent would hold
    up any time limit of a connection."""
    answer: list[Exception | None] = []

    def run() -> None:
        try:
            ask()
        except Exception as error:  # whatever the connection raises; it is told by the caller
            answer.append(error)
        else:
            answer.append(None)

    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else TimeoutError()


def hub_api() -> HfApi:
    """The hub, where the environment says that it is at this moment."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _asked(kind: Kind, name: str) -> Exception | None:
    def ask() -> None:
        api = hub_api()
        look: Any = api.model_info if kind == "model" else api.dataset_info
        look(name.partition(":")[0], timeout=PATIENCE_S)

    return asked_within(PATIENCE_S, ask)


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"waited {PATIENCE_S:.0f} s"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
