"""Generation by vLLM: continuous batching over all prompts of an iteration. The only file that knows vLLM.

The draw is ours (``sampling.drawn``), as a logits processor that leaves one token possible: a sample depends on its
uniform numbers and on the weights, not on what else is being generated, and is the one that ``hf`` would draw. The
processor leaves the log-prob of that token in the place of its logit, where vLLM reports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from distft.batches import Array, Batch, Ragged
from distft.planning.generation import EngineSettings
from distft.rollout.generator import Sampling
from distft.rollout.sampling import drawn, logprob_of
from distft.rollout.vllm_weights import VllmWeights
from distft.rollout.weight_channel import Announced, WeightSyncFailed

_ASKED = "distft"  # our key in a request's extra arguments


@dataclass(frozen=True)
class _Asked:
    """How a request's tokens are found: by its ``draws``, or they are given (``tokens``) and only their log-probs
    wanted."""

    sampling: Sampling
    stop_tokens: tuple[int, ...]
    draws: Array | None = None
    tokens: Array | None = None

    def row(self, position: int) -> float:
        """The number for one position: a draw, or the token itself."""
        numbers = self.draws if self.tokens is None else self.tokens
        assert numbers is not None
        return float(numbers[min(position, len(numbers) - 1)])  # beyond the last one nothing is kept


class Chooser(LogitsProcessor):  # type: ignore[misc]
    """Leaves of every row one token, with its log-prob as its logit."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002 - vLLM's
        self._requests: dict[int, tuple[_Asked, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        def asked(params: SamplingParams, _: list[int] | None, answered: list[int]) -> tuple[_Asked, list[int]] | None:
            found = (params.extra_args or {}).get(_ASKED)
            return None if found is None else (found, answered)

        process_dict_updates(self._requests, batch_update, asked)

    def apply(self, logits: Tensor) -> Tensor:
        groups: dict[tuple[Sampling, tuple[int, ...], bool], list[int]] = {}
        for row, (asked, _) in self._requests.items():
            groups.setdefault((asked.sampling, asked.stop_tokens, asked.tokens is not None), []).append(row)
        for (sampling, stop_tokens, given), rows in groups.items():
            whole = len(rows) == len(logits)
            if whole:
                rows = sorted(rows)
            positions = [len(self._requests[row][1]) for row in rows]
            numbers = [self._requests[row][0].row(position) for row, position in zip(rows, positions, strict=True)]
            scores = logits if whole else logits[rows]
            if given:
                chosen = torch.tensor(numbers, dtype=torch.int64, device=logits.device).unsqueeze(1)
                scaled = scores.float() / sampling.temperature
                highest = scaled.amax(dim=-1, keepdim=True)
                total = (scaled - highest).exp_().sum(dim=-1, keepdim=True, dtype=torch.float64)
                logprobs = logprob_of(chosen, scaled, highest, total)
            else:
                draws = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
                early = torch.tensor([place < sampling.min_new_tokens for place in positions], device=logits.device)
                chosen, logprobs = drawn(scores, draws, early, sampling, stop_tokens)
            left = torch.full_like(scores, -torch.inf).scatter_(1, chosen, logprobs.unsqueeze(1))
            if whole:
                logits.copy_(left)
            else:
                logits[rows] = left
        return logits


class VllmGenerator:
    """One engine in this process, with the weights of the model at ``path`` until ``load`` brings others."""

    def __init__(self, path: str, settings: EngineSettings) -> None:
        self._stop_tokens: tuple[int, ...] = ()
        self._weights = VllmWeights()
        self._llm = LLM(
            model=path,
            skip_tokenizer_init=True,
            trust_remote_code=settings.trust_remote_code,
            dtype=settings.dtype,
            max_model_len=settings.longest,
            max_num_seqs=settings.max_sequences,
            kv_cache_memory_bytes=settings.cache_bytes,
            enable_prefix_caching=True,
            enforce_eager=not settings.gpu,  # to compile takes longer than it saves on a processor
            async_scheduling=False,  # the chooser must see a row's tokens before its next one
            logits_processors=[Chooser],
            logprobs_mode="processed_logits",
            disable_log_stats=True,
            seed=0,
        )
        self.version = -1

    @property
    def vocabulary(self) -> int:
        """Tokens that the model tells apart."""
        return int(self._llm.llm_engine.model_config.get_vocab_size())

    def generate(self, prompts: Sequence[Array], uniforms: Sequence[Array], sampling: Sampling) -> Batch:
        """See ``Generator.generate``: all prompts are handed over at once, and answered as there is room.

        Raises ValueError for a prompt without tokens: nothing predicts its answer.
        """
        if not all(len(prompt) for prompt in prompts):
            raise ValueError("a prompt has no tokens")
        asked = [_Asked(sampling, self._stop_tokens, draws=draws) for draws in uniforms]
        answers = self._answers(prompts, asked, sampling.max_new_tokens)
        return Batch(
            {
                "response_ids": Ragged.of([tokens for tokens, _ in answers], np.int32),
                "sampled_logprobs": Ragged.of([logprobs for _, logprobs in answers], np.float32),
                "ended": np.array([tokens[-1] in self._stop_tokens for tokens, _ in answers], np.uint8),
            }
        )

    def logprobs(self, rows: Sequence[Array], temperature: float = 1.0) -> list[list[float]]:
        """The log-probs of the tokens of each row but its first, by the same way on which responses get theirs."""
        longest = max(len(row) for row in rows) - 1
        sampling = Sampling(longest, temperature=temperature)
        asked = [_Asked(sampling, (), tokens=row[1:]) for row in rows]
        found = self._answers([row[:1] for row in rows], asked, longest)
        return [logprobs[: len(row) - 1] for row, (_, logprobs) in zip(rows, found, strict=True)]

    def load(self, announced: Announced, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Whole weights under their Hugging Face names, from now on answered with as the version that was
        ``announced``, up to a stop token.

        A tensor is read before the next one is asked for. Raises WeightSyncFailed where one of the engine's own was
        not among them.
        """
        self.version = -1
        missing: set[str] = self._llm.collective_rpc(self._weights.load, args=(announced.names, tensors))[0]
        if missing:
            raise WeightSyncFailed(f"partial: {', '.join(sorted(missing)[:5])} of the generator got no weights")
        if not self._llm.reset_prefix_cache():
            raise WeightSyncFailed("stale: keys and values of the former weights are still in use")
        self.version, self._stop_tokens = announced.version, tuple(announced.stop_tokens)

    def _answers(
        self, prompts: Sequence[Array], asked: Sequence[_Asked], most: int
    ) -> list[tuple[list[int], list[float]]]:
        params = [
            SamplingParams(
                temperature=0.0, max_tokens=most, stop_token_ids=list(one.stop_tokens), ignore_eos=True, logprobs=0,
                detokenize=False, extra_args={_ASKED: one},
            )
            for one in asked
        ]  # fmt: skip
        made = self._llm.generate([{"prompt_token_ids": row.tolist()} for row in prompts], params, use_tqdm=False)
        found = []
        for answer in (request.outputs[0] for request in made):
            tokens = list(answer.token_ids)
            assert answer.logprobs is not None
            logprobs = [at[token].logprob for token, at in zip(tokens, answer.logprobs, strict=True)]
            found.append((tokens, logprobs))
        return found
