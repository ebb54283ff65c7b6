"""Public models by name, against the numbers of parameters that their makers publish."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.planning.known_models import known_config, nearest_known
from distft.planning.size_sources import sizes_from_path


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("meta-llama/Meta-Llama-3-70B-Instruct", 70_553_706_496),
        ("meta-llama/Llama-3.1-405B", 405_853_388_800),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
        ("meta-llama/Llama-2-70b-hf", 68_976_648_192),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", 8_030_261_248),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
        ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552),
        ("mistralai/Mistral-Nemo-Instruct-2407", 12_247_782_400),
        ("mistralai/Mistral-Small-24B-Base-2501", 23_572_403_200),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46_702_792_704),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-14B", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B-Base", 1_720_574_976),
        ("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("Qwen/Qwen3-32B", 32_762_123_264),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", 30_532_122_624),
        ("Qwen/Qwen3-235B-A22B", 235_093_634_560),
        ("google/gemma-2-2b-it", 2_614_341_888),
        ("google/gemma-2-9b", 9_241_705_984),
        ("google/gemma-2-27b", 27_227_128_320),
        ("google/gemma-3-270m-it", 268_098_176),
        ("google/gemma-3-1b-it", 999_885_952),
        ("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552),
        ("microsoft/phi-4", 14_659_507_200),
        ("microsoft/Phi-4-mini-instruct", 3_836_021_760),
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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("meta-llama/Llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("Qwen2.5-05B", "Qwen/Qwen2.5-0.5B"),
        ("gemma-2-2b-it", "google/gemma-2-2b-it"),
        ("model", ""),
        ("gpt2", ""),
        ("some/model-not-here", ""),
    ],
)
def test_the_owner_left_out_is_found(written: str, meant: str) -> None:
    assert nearest_known(written) == meant
    if meant:
        with pytest.raises(UserError) as caught:
            sizes_from_path(written)
        assert caught.value.hint == f"did you mean {meant}?"
