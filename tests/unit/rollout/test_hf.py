"""The Hugging Face engine: the same tokens in any batch, true log-probs, nobody else's settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from distft.batches import Batch
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.sampling import uniforms
from tests.unit.models import tiny

PROMPTS = [row.numpy().astype(np.int32) for row in tiny.rows((3, 9, 1, 6, 4))]
SAMPLING = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("llama")
    tiny.write_model(path, "llama")
    return path


def generator(folder: Path, stops: tuple[int, ...] = (tiny.EOS, 40, 41, 42)) -> HfGenerator:
    module = AutoModelForCausalLM.from_pretrained(folder)
    return HfGenerator(module, stop_tokens=stops, pad_token=tiny.PAD, synchronized=False)


def run(engine: HfGenerator, samples: Sequence[int], sampling: Sampling = SAMPLING) -> Batch:
    numbers = [uniforms(1, 0, sample, sampling.max_new_tokens) for sample in samples]
    return engine.generate([PROMPTS[sample] for sample in samples], numbers, sampling)


def responses(batch: Batch) -> list[list[int]]:
    return [batch.ragged("response_ids")[row].tolist() for row in range(len(batch))]


def teacher_forced(module: Any, prompt: np.ndarray, response: list[int], temperature: float) -> torch.Tensor:
    ids = torch.tensor([[*prompt.tolist(), *response]])
    with torch.no_grad():
        logits = module.eval()(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / temperature
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(response)), torch.tensor(response)]


def test_a_sample_gets_the_same_tokens_in_any_batch(folder: Path) -> None:
    engine = generator(folder)
    together = run(engine, range(5))
    alone = [responses(run(engine, [sample]))[0] for sample in range(5)]
    backwards = responses(run(engine, [4, 3, 2, 1, 0]))[::-1]
    assert responses(together) == alone == backwards
    assert len({tuple(response) for response in alone}) == 5
    assert {1, 0} == set(together.dense("ended").tolist())  # some end by themselves, some at the limit


@pytest.mark.parametrize("sampling", [
    SAMPLING,
    Sampling(max_new_tokens=8, temperature=0.6, top_p=0.7, top_k=20, min_new_tokens=4),
    Sampling(max_new_tokens=8, greedy=True),
])  # fmt: skip
def test_recorded_logprobs_are_those_of_a_teacher_forced_pass(folder: Path, sampling: Sampling) -> None:
    engine = generator(folder)
    batch = run(engine, range(5), sampling)
    temperature = 1.0 if sampling.greedy else sampling.temperature
    for row, response in enumerate(responses(batch)):
        wanted = teacher_forced(engine.module, PROMPTS[row], response, temperature)
        found = torch.from_numpy(batch.ragged("sampled_logprobs")[row].copy())
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert len(response) >= sampling.min_new_tokens


def test_greedy_is_hugging_faces_greedy(folder: Path) -> None:
    engine = generator(folder, stops=())
    found = responses(run(engine, [1], Sampling(max_new_tokens=8, greedy=True)))[0]
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=tiny.PAD)
    engine.module.generation_config = GenerationConfig()
    wanted = engine.module.generate(torch.from_numpy(PROMPTS[1].astype(np.int64))[None], generation_config=settings)
    assert found == wanted[0, len(PROMPTS[1]) :].tolist()


def test_settings_beside_the_weights_change_nothing(folder: Path) -> None:
    engine = generator(folder)
    wanted = run(engine, range(5))
    foreign = GenerationConfig(
        temperature=0.01, top_k=1, top_p=0.1, do_sample=True, repetition_penalty=5.0, no_repeat_ngram_size=1,
        forced_bos_token_id=61, forced_eos_token_id=62, suppress_tokens=list(range(3, 60)), min_new_tokens=10,
        begin_suppress_tokens=[9], bad_words_ids=[[11]], num_beams=4, max_length=5, renormalize_logits=True,
        exponential_decay_length_penalty=(1, 9.0), stop_strings=["w5"], max_time=1e-9, eos_token_id=[5], pad_token_id=9,
    )  # fmt: skip
    engine.module.generation_config = foreign
    found = run(engine, range(5))
    assert responses(found) == responses(wanted)
    assert found.ragged("sampled_logprobs").values.tolist() == wanted.ragged("sampled_logprobs").values.tolist()
    assert engine.module.generation_config is foreign


def test_such_settings_would_have_been_taken(folder: Path) -> None:
    """Or the test above could not fail."""
    module = generator(folder).module
    prompt = torch.from_numpy(PROMPTS[1].astype(np.int64))[None]
    ours = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=tiny.PAD)
    found = []
    for beside in (GenerationConfig(), GenerationConfig(repetition_penalty=5.0)):
        module.generation_config = beside
        found.append(module.generate(prompt, generation_config=ours).tolist())
    assert found[0] != found[1]


def test_the_mode_and_the_random_stream_of_the_trainer_are_left_alone(folder: Path) -> None:
    engine = generator(folder)
    engine.module.train()
    before = torch.get_rng_state()
    run(engine, range(3))
    assert engine.module.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_prompt_without_tokens_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        generator(folder).generate([np.zeros(0, np.int32)], [np.zeros(12)], SAMPLING)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "gemma2"])
def test_other_families_pad_on_the_left_too(tmp_path: Path, architecture: str) -> None:
    tiny.write_model(tmp_path, architecture)
    engine = generator(tmp_path)
    together = run(engine, range(5))
    assert responses(together) == [responses(run(engine, [sample]))[0] for sample in range(5)]
    wanted = [teacher_forced(engine.module, PROMPTS[row], made, 1.0) for row, made in enumerate(responses(together))]
    found = torch.from_numpy(together.ragged("sampled_logprobs").values.copy())
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-5, atol=1e-5)


def test_a_listener_hears_every_token_as_it_comes(folder: Path) -> None:
    heard: list[list[int]] = []
    numbers = [uniforms(1, 0, sample, 12) for sample in (0, 1)]
    made = generator(folder).generate(PROMPTS[:2], numbers, SAMPLING, lambda tokens: heard.append(tokens.tolist()))
    for row, response in enumerate(responses(made)):
        assert [tokens[row] for tokens in heard][: len(response)] == response
    assert responses(made) == responses(run(generator(folder), (0, 1)))
