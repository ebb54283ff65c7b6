"""`distft export --push`: a model folder becomes a repository of the Hugging Face hub."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.launch.preflight.hub import PATIENCE_S, asked_within, hub_api, is_offline

_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)


def require_repository(name: str) -> None:
    """Before anything is written. Raises UserError where ``name`` is none, the environment says that the hub is not to
    be asked, or the hub does not know who we are; EnvironmentFallsShort where it does not answer."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    where = f"--push {name}"
    if not _NAME.fullmatch(name):
        raise UserError("is no name of a repository", where=where, hint="owner/name")
    if is_offline():
        raise UserError("the environment says that the hub is not to be asked", where=where,
                        hint="unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE")  # fmt: skip
    login = "hf auth login, or HF_TOKEN in the environment: a token that may write"
    if get_token() is None:
        raise UserError("the hub wants to know who you are", where=where, hint=login)
    error = asked_within(PATIENCE_S, lambda: hub_api().whoami())
    if isinstance(error, HfHubHTTPError):
        raise UserError(f"the hub refuses your token: {_said(error)}", where=where, hint=login)
    if error is not None:
        raise EnvironmentFallsShort(f"the hub does not answer: {_said(error)}", where=where,
                                    hint="without --push, and later: hf upload OWNER/NAME FOLDER")  # fmt: skip


def push(folder: Path, name: str) -> str:
    """All files of a folder as a commit of that repository, a new and private one where there is none; its address.

    Raises UserError where the hub refuses, EnvironmentFallsShort where it does not answer; the folder stays.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    api = hub_api()
    again = f"it is in {folder}; again: hf upload {name} {shlex.quote(str(folder))}"
    try:
        repository = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="distft export")
    except HfHubHTTPError as error:
        raise UserError(f"the hub refuses it: {_said(error)}", where=f"--push {name}", hint=again) from error
    except (httpx.HTTPError, OSError) as error:
        what = f"the hub does not answer: {_said(error)}"
        raise EnvironmentFallsShort(what, where=f"--push {name}", hint=again) from error
    return str(repository)


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
