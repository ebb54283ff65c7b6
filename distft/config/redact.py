"""Secrets do not reach a file or a log."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[hidden]"

# A key is secret if these words end it (or stand before id/key/value); max_tokens and tokenizer are not.
_SECRET_KEY = re.compile(
    r"(?:^|[_\-.])(?:token|auth|authorization|bearer|cookie|credentials?|passwd|password|passphrase|pwd|secret|secrets)$"
    r"|(?:api|access|secret|private|auth|signing|encryption|account|ssh)[_\-.]?keys?(?:[_\-.]?id)?$"
    r"|(?:secret|password|passwd|passphrase|credential)"
    r"|(?:auth|access|refresh|session|security|bearer|hf|hub|github|gitlab|wandb)[_\-.]?token(?:[_\-.]value)?$",
    re.IGNORECASE,
)
# Innocent in spite of their last word: what a tokenizer calls its special tokens, and paths to secrets.
_INNOCENT_KEY = re.compile(
    r"(?:^|[_\-.])(?:pad|eos|bos|unk|mask|sep|cls|special|image|num|per|max|min|new|first|last)[_\-.]token$"
    r"|(?:path|_file)$",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.\-]*://)[^\s/@:'\"]*(?::[^\s/@'\"]*)?@")
_ASSIGNED = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_.\-]*)(?P<sep>['\"]?\s*[=:]\s*['\"]?)(?P<value>[^\s'\",;&}]+)")
_BEARER = re.compile(r"(?P<scheme>\b[Bb]earer\s+)[A-Za-z0-9._~+/=\-]{8,}")
_SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_\-]{20,}|AKIA[A-Z0-9]{16})\b")
_ENVIRONMENT = (
    "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "RAY_AUTH_TOKEN", "GITHUB_TOKEN",
    "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY",
)  # fmt: skip
_FOLDERS = ("PWD", "OLDPWD")  # a shell's folders, no passwords: below them lie a recipe's models and data
_SHORTEST_SECRET = 6  # shorter values of the environment would hide innocent words


def is_secret_key(key: str) -> bool:
    """Whether a key names a secret, by its words: ``hf_token`` does, ``max_tokens_per_rank`` does not."""
    words = _WORDS.sub("_", key)
    return bool(_SECRET_KEY.search(words)) and not _INNOCENT_KEY.search(words)


def has_credentials(text: str) -> bool:
    """Whether a URL in the text names a user, as a proxy's with its password does."""
    return bool(_URL.search(text))


def redact(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with secret values hidden, at any depth; texts go through ``redact_text``."""
    secrets = _environment_secrets()
    return {key: _value(key, value, secrets) for key, value in mapping.items()}


def redact_text(text: str) -> str:
    """The text without credentials in URLs, values assigned to secret names, bearer tokens, or known secrets."""
    return _text(text, _environment_secrets())


def _value(key: object, value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {name: _value(name, inner, secrets) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_value(key, inner, secrets) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if is_secret_key(str(key)):
        return HIDDEN
    return _text(value, secrets) if isinstance(value, str) else value


def _text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _URL.sub(lambda match: f"{match['scheme']}{HIDDEN}@", text)
    text = _BEARER.sub(lambda match: match["scheme"] + HIDDEN, text)
    text = _SHAPES.sub(HIDDEN, text)
    return _ASSIGNED.sub(_assigned, text)


def _assigned(match: re.Match[str]) -> str:
    if not is_secret_key(match["key"]) or match["value"].startswith((HIDDEN, "[")):
        return match[0]
    return f"{match['key']}{match['sep']}{HIDDEN}"


def _environment_secrets() -> tuple[str, ...]:
    """Values of variables that hold secrets, longest first, so that none is hidden in part only."""
    names = [name for name in os.environ if name in _ENVIRONMENT or (is_secret_key(name) and name not in _FOLDERS)]
    values = {os.environ[name] for name in names}
    return tuple(sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True))
