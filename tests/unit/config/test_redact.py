"""Secrets are hidden, and nothing else is."""

from __future__ import annotations

import pytest

from distft.config.redact import HIDDEN, is_secret_key, redact, redact_text

SECRET = ["token", "hf_token", "HF_TOKEN", "hfToken", "WANDB_API_KEY", "api_key", "apiKey", "api-key", "password",
          "db_password", "PASSWD", "client_secret", "secret", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
          "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "private_key", "credentials", "Authorization", "ssh-key"]  # fmt: skip
INNOCENT = ["max_tokens_per_rank", "tokenizer", "num_tokens", "tokens", "max_new_tokens", "pad_token", "eos_token",
            "tokenize", "key", "keep", "RAY_AUTH_TOKEN_PATH", "author", "monkey", "keyboard", "num_kv_heads",
            "RAY_AUTH_MODE", "tokens_per_second"]  # fmt: skip


@pytest.mark.parametrize("key", SECRET)
def test_secret_key(key: str) -> None:
    assert is_secret_key(key)
    assert redact({"a": [{key: "s3cr3t-value"}]}) == {"a": [{key: HIDDEN}]}


@pytest.mark.parametrize("key", INNOCENT)
def test_innocent_key(key: str) -> None:
    assert not is_secret_key(key)
    assert redact({key: "value", "b": {key: 3}}) == {key: "value", "b": {key: 3}}


def test_values_keep_their_kind() -> None:
    assert redact({"a": 1, "b": None, "c": (1.5, "x"), "password": 12345, "token": None, "use_token": True}) == {
        "a": 1, "b": None, "c": [1.5, "x"], "password": HIDDEN, "token": None, "use_token": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://me:pa55@host/x?y=1", f"see https://{HIDDEN}@host/x?y=1"),
        ("git clone https://ghtoken@host/x", f"git clone https://{HIDDEN}@host/x"),
        ("https://host/a@b", "https://host/a@b"),
        ("WANDB_API_KEY=abc123 python x", f"WANDB_API_KEY={HIDDEN} python x"),
        ('{"hf_token": "abc", "max_tokens": 5}', f'{{"hf_token": "{HIDDEN}", "max_tokens": 5}}'),
        ("--api-key=abc", f"--api-key={HIDDEN}"),
        ("X: Bearer abcdefgh1234", f"X: Bearer {HIDDEN}"),
        ("num_tokens=5 tokenizer=x", "num_tokens=5 tokenizer=x"),
        ("got hf_abcdefghijklmnopqrstuvwx", f"got {HIDDEN}"),
    ],
)
def test_text(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_secrets_of_the_environment_are_hidden_wherever_they_turn_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "correct horse")
    monkeypatch.setenv("HF_TOKEN", "abc")  # too short to be one, and would hide half the text
    assert redact_text("x0123456789abcdefx correct horse abc") == f"x{HIDDEN}x {HIDDEN} abc"
    assert redact({"note": "0123456789abcdef"}) == {"note": HIDDEN}


def test_a_shells_folders_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model below the working folder keeps its path in the run folder, or no run could go on from there."""
    monkeypatch.setenv("PWD", "/projects/align")
    monkeypatch.setenv("OLDPWD", "/projects/models")
    paths = {"path": "/projects/align/models/x", "output_dir": "/projects/models/run"}
    assert redact(paths) == paths
