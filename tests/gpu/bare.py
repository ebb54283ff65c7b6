"""The floor: the same steps in a bare torch loop. Prints one JSON line.

    python -m tests.gpu.bare sft|dpo MODEL --rows 8 --micro 2 --length 2048 --steps 20 [--liger]

``--rows`` of a micro-batch (dpo: pairs), ``--micro`` of them a step. Weights in bfloat16 with float32 master copies and
fused AdamW, SDPA, no autocast: what distft holds, too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.gpu.figures import device, peaks, synchronize

BETA, RATE = 0.1, 1e-5


def load(path: str, *, liger: bool) -> Any:
    kind: Any = AutoModelForCausalLM
    if liger:
        kind = importlib.import_module("liger_kernel.transformers").AutoLigerKernelForCausalLM
    return kind.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="sdpa").to(device())


def logprobs(model: Any, ids: Tensor) -> Tensor:
    """Of every token but the first, ``[rows, length - 1]``."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    lost = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return -lost.view(len(ids), -1)


def loss_of(kind: str, model: Any, reference: Any, ids: Tensor, *, liger: bool) -> Tensor:
    if kind == "sft":
        # Liger's loss does without logits, if it may compute it itself.
        loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss if liger else -logprobs(model, ids).mean()
        return loss
    with torch.no_grad():
        before = logprobs(reference, ids).sum(-1)
    margin = logprobs(model, ids).sum(-1) - before
    chosen, rejected = margin.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("sft", "dpo"))
    parser.add_argument("model")
    for name, default in (("rows", 8), ("micro", 1), ("length", 2048), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--liger", action="store_true")
    asked = parser.parse_args()
    model = load(asked.model, liger=asked.liger).train()
    reference = load(asked.model, liger=asked.liger).eval().requires_grad_(False) if asked.kind == "dpo" else None
    weights = list(model.parameters())
    masters = [weight.detach().clone().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(masters, lr=RATE, fused=True)
    draw, rows = torch.Generator().manual_seed(0), asked.rows * (2 if asked.kind == "dpo" else 1)
    seconds = []
    for _ in range(asked.steps):
        shape = (asked.micro, rows, asked.length)
        batches = torch.randint(10, model.config.vocab_size, shape, generator=draw)
        synchronize()
        started = time.perf_counter()
        for ids in batches:
            (loss_of(asked.kind, model, reference, ids.to(device()), liger=asked.liger) / asked.micro).backward()
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_copy_([weight.data for weight in weights], masters)
        synchronize()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "tokens": asked.micro * rows * asked.length, **peaks()}), flush=True)


if __name__ == "__main__":
    main()
