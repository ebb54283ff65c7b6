"""What other trainers call a key is answered with its name here, as the README of the recipes says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.problems import section_at
from distft.config.synonyms import SYNONYMS

README = (Path(__file__).parents[3] / "distft" / "recipes" / "README.md").read_text()
ROWS = README.partition("| TRL | OpenRLHF | here |\n")[2].splitlines()[1:]
VALUES = {"paged_adamw_8bit", "adafactor"}
TRL = {word for row in ROWS for word in re.findall(r"`([a-z_]\w+)`", row.split("|")[1])} - VALUES
METHODS = ("sft", "dpo", "ppo", "grpo", "distill", "gkd", "ppo-ptx")


@pytest.mark.parametrize("word", sorted({*TRL, *SYNONYMS}))
def test_a_name_of_other_trainers_is_answered(word: str) -> None:
    assert len(TRL) > 50
    with pytest.raises(UserError) as caught:
        load_recipe("ppo-tiny" if word == "kl_coef" else "dpo-tiny", [f"{word}=1"])
    assert re.match(r"here that is |did you mean ", caught.value.hint)


def test_names_here_are_keys() -> None:
    trees = [load_recipe(f"{method}-tiny").model_dump() for method in METHODS]
    for meant in " ".join(SYNONYMS.values()).split():
        *path, key = meant.split(".")
        sections = [section_at(tuple(path), tree) for tree in trees]
        assert any(section is not None and key in section.model_fields for section in sections), meant
