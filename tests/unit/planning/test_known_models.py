"""Public models by name, against the numbers of parameters that their makers publish."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.planning.known_models import known_config
from distft.planning.model_sizes import sizes_from_path


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("meta-llama/Meta-Llama-3-70B-Instruct", 70_553_706_496),
        ("meta-llama/Llama-3.1-405B", 405_853_388_800),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("google/flan-t5-base", 247_577_856),
    ],
)
def test_totals_are_those_published(name: str, parameters: int) -> None:
    assert sizes_from_path(name).total == parameters


def test_others_are_not_guessed() -> None:
    assert known_config("meta-llama/Meta-Llama-3-9B") is None
    with pytest.raises(UserError, match="not on this machine") as caught:
        sizes_from_path("some/model-not-here")
    assert "config.json" in caught.value.hint
