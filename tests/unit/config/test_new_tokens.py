"""Which texts become tokens, and where that may be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.new_tokens import new_tokens
from distft.config.roles import model_of, resolved

KEY = "models.policy.extend_vocabulary"
EXTENDED = ["models.policy.path=some/model", f"{KEY}=[cat, dog]"]


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("sft-tiny", [f"{KEY}=[cat]"], r"a model from nothing has its tokenizer made.*larger models.policy.init.vocab"),
        ("sft-tiny", [*EXTENDED, f"{KEY}=[]"], r"extend_vocabulary.*names no text"),
        ("sft-tiny", [*EXTENDED, f"{KEY}=[cat, dog, cat]"], r"'cat' stands there twice"),
        ("sft-tiny", [*EXTENDED, f"{KEY}=[cat, ' ']"], r"text 2 is empty"),
        ("sft-tiny", [*EXTENDED, "models.policy.peft={}"], r"adapters leave the rows of new.*peft: null; adapters"),
        ("ppo-tiny", ["models.reward.path=r", "models.reward.extend_vocabulary=[cat]"], r"this model is frozen"),
        (
            "dpo-tiny",
            [*EXTENDED, "models.reference={extend_vocabulary: [cat, dog]}"],
            r"models.reference.extend_vocabulary.*has no effect: the reference begins as another model does",
        ),
        (
            "dpo-tiny",
            [*EXTENDED, "models.reference.path=some/model"],
            r"models.reference.extend_vocabulary.*is not the policy's.*remove models.reference.path",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(name: str, keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_recipe(name, keys)


def test_who_begins_as_the_policy_does_has_its_new_tokens() -> None:
    recipe = load_recipe("dpo-tiny", [*EXTENDED, "models.reference.dtype=float32"])
    assert model_of(recipe, "reference").extend_vocabulary == ("cat", "dog")
    written = resolved(recipe)
    assert written.models.reference is not None
    assert written.models.reference.extend_vocabulary is None
    assert model_of(written, "reference").extend_vocabulary == ("cat", "dog")
    ppo = load_recipe("ppo-tiny", [*EXTENDED, "models.reward.path=some/reward"])
    assert model_of(ppo, "value").path == "some/reward"
    assert model_of(ppo, "value").extend_vocabulary is None


def test_the_lines_of_a_file_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_bytes(" größe\ncow \r\n\n  \n日本\n".encode())
    assert new_tokens(str(file), KEY) == (" größe", "cow ", "日本")
    assert load_recipe("sft-tiny", [EXTENDED[0], f"{KEY}={file}"]).models.policy.extend_vocabulary == str(file)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tokens.txt cannot be read"),
        (b"\xff\n", r"tokens.txt cannot be read: 'utf-8'"),
        (b"\n\n", r"tokens.txt: names no text"),
        (b"cat\ndog\ncat\n", r"tokens.txt: 'cat' stands there twice"),
    ],
)
def test_a_file_that_cannot_be_used(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        new_tokens(str(file), KEY)
    assert caught.value.where == KEY
