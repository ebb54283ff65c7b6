"""Rollouts by vLLM: our engine beside vLLM's own ``LLM.generate`` and beside ``hf``; a weight sync beside a plain copy.

    python -m tests.benchmarks.rollouts [--vocab 2048] [--prompts 64] [--tokens 128] [--repeats 3]

A 25 M Llama in bfloat16 on one engine; every response has all its tokens. Medians of alternating repetitions, in one
process, as a table (Markdown); ratios are to our engine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from distft.planning.generation import EngineSettings, engine_environment
from distft.rollout.generator import Sampling
from distft.rollout.sampling import uniforms

HF_BATCH = 64  # rollout.max_batch_per_rank
MIB = 2**20


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternating(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one after the other, so that what else the machine does meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            taken = seconds(work)
            if repeat:  # the first time much is made that stays
                found[name].append(taken)
    return {name: median(taken) for name, taken in found.items()}


def rollouts(engine: Any, module: Any, told: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The same prompts to each of the three."""
    from vllm import SamplingParams

    from distft.rollout.hf import HfGenerator

    numbers = np.random.default_rng(0)
    prompts = [
        numbers.integers(3, told.vocab, size).astype(np.int32) for size in numbers.integers(16, 64, told.prompts)
    ]
    draws = [uniforms(1, 1, number, told.tokens) for number in range(told.prompts)]
    sampling = Sampling(told.tokens)
    hf = HfGenerator(module, stop_tokens=(), pad_token=0, synchronized=False)
    raw = SamplingParams(temperature=1.0, max_tokens=told.tokens, ignore_eos=True, logprobs=0, detokenize=False)
    asked = [{"prompt_token_ids": prompt.tolist()} for prompt in prompts]

    def by_hf() -> None:
        for first in range(0, told.prompts, HF_BATCH):
            chosen = slice(first, first + HF_BATCH)
            hf.generate(prompts[chosen], draws[chosen], sampling)

    return {
        "distft, vLLM": lambda: engine.generate(prompts, draws, sampling),
        "vLLM's own LLM.generate": lambda: engine._llm.generate(asked, raw, use_tqdm=False),
        "distft, hf": by_hf,
    }


def syncs(engine: Any, module: Any) -> dict[str, Callable[[], Any]]:
    """The whole policy through a channel into the engine, and its bytes copied."""
    import torch.distributed as dist

    from distft.rollout.weight_channel import Announced, WeightChannel

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pool = ThreadPoolExecutor(1)
    opening = pool.submit(WeightChannel, store, 0, 2, timeout_s=60)
    receiver = WeightChannel(("127.0.0.1", store.port), 1, 2, timeout_s=60)
    sender = opening.result()
    tensors = {name: parameter.data for name, parameter in module.named_parameters()}
    announced = Announced(1, list(tensors), ())

    def sync() -> None:
        sending = pool.submit(sender.send, announced, iter(tensors.items()))
        engine.load(receiver.receive(receiver.hear(1)), 1, ())
        sending.result()

    return {"weight sync": sync, "plain copy": lambda: [tensor.clone() for tensor in tensors.values()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("vocab", 2048), ("prompts", 64), ("tokens", 128), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    told = parser.parse_args()
    os.environ.update(engine_environment(gpu=False))
    import torch
    from transformers import AutoModelForCausalLM

    from distft.rollout.vllm_engine import VllmGenerator
    from tests.reference.tiny_models import save_llama, train_tokenizer

    with tempfile.TemporaryDirectory(prefix="distft-") as folder:
        path = save_llama(
            Path(folder), train_tokenizer(["a b c"], 300), hidden_size=512, intermediate_size=1408, num_layers=7,
            num_heads=8, vocab_size=told.vocab, dtype=torch.bfloat16,
        )  # fmt: skip
        module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        engine = VllmGenerator(str(path), EngineSettings("bfloat16", 256, told.prompts, 512 * MIB, gpu=False))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    print(f"{parameters / 1e6:.1f} M parameters, {torch.get_num_threads()} threads\n")
    taken = alternating(rollouts(engine, module, told), told.repeats)
    print("| | tokens/s | distft's vLLM is |", "|---|---|---|", sep="\n")
    for name, each in taken.items():
        print(f"| {name} | {told.prompts * told.tokens / each:,.0f} | {each / taken['distft, vLLM']:.2f}x |")
    taken = alternating(syncs(engine, module), told.repeats)
    print(f"\n| whole policy, {2 * parameters / MIB:.0f} MiB | ms |", "|---|---|", sep="\n")
    for name, each in taken.items():
        print(f"| {name} | {1000 * each:.0f} |")
    print(f"\nA sync takes {taken['weight sync'] / taken['plain copy']:.1f} times as long as a plain copy.")


if __name__ == "__main__":
    main()
