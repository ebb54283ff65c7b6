"""Rollouts by vLLM: our engine beside vLLM's own ``LLM.generate`` and beside ``hf``; a weight sync beside a plain copy.

    python -m tests.benchmarks.rollouts [--vocab 2048] [--prompts 64] [--tokens 128] [--repeats 3] [--syncs 15]

A 25 M Llama in bfloat16 on one engine; every response has all its tokens. Medians of alternating repetitions, in one
process, as a table (Markdown); ratios are to our engine.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
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


def sender(path: str, port: int, asked: Connection) -> None:
    """The trainer's end, in a process of its own as in a run: sends the whole policy as often as it is asked to."""
    import torch
    from transformers import AutoModelForCausalLM

    from distft.rollout.weight_channel import Announced, WeightChannel

    module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    tensors = {name: parameter.data for name, parameter in module.named_parameters()}
    channel = WeightChannel(("127.0.0.1", port), 0, 2, timeout_s=60)
    while asked.recv():
        channel.send(Announced(1, list(tensors), ()), iter(tensors.items()))
        asked.send(True)


@contextmanager
def syncs(engine: Any, path: str) -> Iterator[dict[str, Callable[[], Any]]]:
    """The whole policy from another process into the engine, and its bytes copied: into memory that the process has
    not used yet, as a new copy needs it, and into memory that it has."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file

    from distft.rollout.weight_channel import WeightChannel

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=sender, args=(path, store.port, there), daemon=True)
    process.start()
    receiver = WeightChannel(("127.0.0.1", store.port), 1, 2, timeout_s=60)
    tensors = [one.flatten() for file in Path(path).glob("*.safetensors") for one in load_file(file).values()]
    size = sum(one.nbytes for one in tensors)
    old = torch.zeros(size, dtype=torch.uint8)

    def sync() -> None:
        here.send(True)
        heard = receiver.hear(1)
        engine.load(heard, receiver.receive(heard))
        here.recv()

    def copy(memory: torch.Tensor) -> None:
        torch.cat([one.view(torch.uint8) for one in tensors], out=memory)

    yield {
        "weight sync": sync,
        "copy into new memory": lambda: copy(torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)),
        "copy into memory that was there": lambda: copy(old),
    }
    here.send(False)
    process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("vocab", 2048), ("prompts", 64), ("tokens", 128), ("repeats", 3), ("syncs", 15)):
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
        print(
            f"{parameters / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n"
        )
        taken = alternating(rollouts(engine, module, told), told.repeats)
        print("| | tokens/s | distft's vLLM is |", "|---|---|---|", sep="\n")
        for name, each in taken.items():
            print(f"| {name} | {told.prompts * told.tokens / each:,.0f} | {each / taken['distft, vLLM']:.2f}x |")
        with syncs(engine, str(path)) as works:
            taken = alternating(works, told.syncs)
    print(f"\n| whole policy, {2 * parameters / MIB:.0f} MiB | ms | a sync takes |", "|---|---|---|", sep="\n")
    for name, each in taken.items():
        print(f"| {name} | {1000 * each:.0f} | {taken['weight sync'] / each:.1f}x |")
    print(f"\nmedians of {told.repeats} and {told.syncs}, load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
