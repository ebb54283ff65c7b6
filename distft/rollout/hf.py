"""Generation by Hugging Face ``generate``: the engine that runs everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from distft.batches import Array, Batch
from distft.models.encoder_decoder import answer_start
from distft.models.routers import Routers
from distft.rollout.generator import Sampling
from distft.rollout.responses import cut_responses
from distft.rollout.sampling import InverseCdf


class HfGenerator:
    """Generates with a module in this process: a gathered twin, or the sharded module itself.

    ``synchronized`` is for a sharded module: every rank must then make the same calls, and each goes on
    until the longest response of all ranks has ended, because every forward is a collective. ``routers``: those of the
    module, whose choices are recorded.
    """

    def __init__(
        self, module: Any, *, stop_tokens: tuple[int, ...], pad_token: int, synchronized: bool,
        routers: Routers | None = None,
    ) -> None:  # fmt: skip
        self._module, self._routers = module, routers
        self._stop_tokens, self._pad_token = stop_tokens, pad_token
        self._synchronized = synchronized
        self._apart = bool(module.config.is_encoder_decoder)
        self._start = answer_start(module, "the model") if self._apart else None
        self.version = -1

    @property
    def module(self) -> Any:
        """What generates; weight sync writes into it."""
        return self._module

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Array],
        uniforms: Sequence[Array],
        sampling: Sampling,
        listener: Callable[[Array], None] | None = None,
    ) -> Batch:
        """See ``Generator.generate``. ``listener`` is called with the new token of each row as soon as it is chosen.

        Raises ValueError for a prompt without tokens: nothing predicts its answer.
        """
        device = next(self._module.parameters()).device
        input_ids, attention_mask = self._padded(prompts)
        draws = torch.from_numpy(np.stack(list(uniforms))).to(device)
        forced = getattr(self._module.generation_config, "forced_bos_token_id", None) if self._apart else None
        sampler = InverseCdf(draws, sampling, self._stop_tokens, first=forced)
        with _alone(self._module), nullcontext() if self._routers is None else self._routers.recording() as recorded:
            output = self._module.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=self._settings(sampling),
                logits_processor=[sampler],
                synced_gpus=self._synchronized,
                streamer=None if listener is None else _Streamer(listener),
            )
            # Behind the prompt; of an encoder-decoder behind the token that starts an answer.
            tokens = output[:, 1 if self._apart else input_ids.shape[1] :].cpu().numpy()
            logprobs = torch.stack(sampler.logprobs, dim=1)[:, : tokens.shape[1]].cpu().numpy()
            made = cut_responses(tokens, logprobs, self._stop_tokens)
            if recorded is None:
                return made
            starts = [input_ids.shape[1] - len(prompt) for prompt in prompts]
            ends = input_ids.shape[1] + made.ragged("response_ids").lengths - 1  # nobody reads the last token
            return made.with_columns(routed_experts=recorded.rows(starts, ends))

    def _padded(self, prompts: Sequence[Array]) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask``, both ``[rows, longest]``, padded on the left; for an encoder, which
        counts its positions from there, on the right."""
        if not all(len(prompt) for prompt in prompts):
            raise ValueError("a prompt has no tokens")
        longest = max(len(prompt) for prompt in prompts)
        input_ids = torch.full((len(prompts), longest), self._pad_token, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            start = 0 if self._apart else longest - len(prompt)
            input_ids[row, start : start + len(prompt)] = torch.from_numpy(prompt.astype(np.int64))
            attention_mask[row, start : start + len(prompt)] = 1
        return input_ids, attention_mask

    def _settings(self, sampling: Sampling) -> GenerationConfig:
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(self._stop_tokens),
            pad_token_id=self._pad_token,
            decoder_start_token_id=self._start,
            use_cache=True,
        )


class _Streamer(BaseStreamer):
    """Tells of the tokens that ``generate`` adds; what it puts first is the prompt."""

    def __init__(self, listener: Callable[[Array], None]) -> None:
        self._listener, self._prompt_is_past = listener, False

    def put(self, value: Tensor) -> None:
        if self._prompt_is_past:
            self._listener(value.reshape(-1).numpy())
        self._prompt_is_past = True

    def end(self) -> None:
        """Nothing is held back."""


@contextmanager
def _alone(module: Any) -> Iterator[None]:
    """Evaluation mode, and none of the sampling settings that came with the model's files.

    ``generate`` fills whatever a call leaves open from ``module.generation_config``: a repetition penalty
    or forced tokens lying there would change the tokens, and no log-prob would show it.
    """
    was_training, kept = module.training, module.generation_config
    module.eval()
    module.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        module.generation_config = kept
        module.train(was_training)
