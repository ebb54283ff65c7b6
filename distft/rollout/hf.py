"""Generation by Hugging Face ``generate``: the engine that runs everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from distft.batches import Array, Batch
from distft.rollout.generator import Sampling
from distft.rollout.responses import cut_responses
from distft.rollout.sampling import InverseCdf


class HfGenerator:
    """Generates with a module in this process: a gathered twin, or the sharded module itself.

    ``synchronized`` is for a sharded module: every rank must then make the same calls, and each goes on
    until the longest response of all ranks has ended, because every forward is a collective.
    """

    def __init__(self, module: Any, *, stop_tokens: tuple[int, ...], pad_token: int, synchronized: bool) -> None:
        self._module = module
        self._stop_tokens, self._pad_token = stop_tokens, pad_token
        self._synchronized = synchronized
        self.version = -1

    @property
    def module(self) -> Any:
        """What generates; weight sync writes into it."""
        return self._module

    @torch.no_grad()
    def generate(self, prompts: Sequence[Array], uniforms: Sequence[Array], sampling: Sampling) -> Batch:
        """See ``Generator.generate``."""
        device = next(self._module.parameters()).device
        longest = max(len(prompt) for prompt in prompts)
        input_ids = torch.full((len(prompts), longest), self._pad_token, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            attention_mask[row, longest - len(prompt) :] = 1
        draws = torch.from_numpy(np.stack(list(uniforms))).to(device)
        sampler = InverseCdf(draws, sampling, self._stop_tokens)
        was_training = self._module.training
        self._module.eval()
        output = self._module.generate(
            input_ids=input_ids.to(device),
            attention_mask=attention_mask.to(device),
            generation_config=self._settings(sampling),
            logits_processor=[sampler],
            synced_gpus=self._synchronized,
        )
        self._module.train(was_training)
        tokens = output[:, longest:].cpu().numpy()
        logprobs = torch.stack(sampler.logprobs, dim=1)[:, : tokens.shape[1]].cpu().numpy()
        return cut_responses(tokens, logprobs, self._stop_tokens)

    def _settings(self, sampling: Sampling) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(self._stop_tokens),
            pad_token_id=self._pad_token,
            use_cache=True,
        )
