"""A forward pass that computes its head only where a loss looks, and, fused with the loss's log-probabilities, never
for all of them at once.

Both faces share one signature: ``input_ids [rows, length]`` right-padded, ``position_ids`` only for
packed rows (None otherwise: causal attention never lets a real token see the padding behind it, so no
mask is needed and the fast causal kernel is used), and ``select [num_tokens]``, flat indices into
``rows * length`` of the positions whose hidden state is read.

Samples of a packed row stay apart where Hugging Face builds the mask from ``position_ids``: see ``models.packing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from distft.algorithms.linear_logprobs import LogitMap, chunk_of, linear_logprobs
from distft.algorithms.logprobs import token_logprobs
from distft.algorithms.measured import Measure, measured
from distft.models.logit_map import find_logit_map
from distft.models.sequence_parallel import Sharing


class LogprobHead(nn.Linear):
    """A language model's head that, told the targets, answers what a loss wants to know of them, not the logits."""

    logit_map: LogitMap

    def forward(self, hidden: Tensor, reading: Reading | None = None) -> Any:
        """``[..., in]`` to logits; with ``reading``, ``[num_tokens, in]`` to names and ``[num_tokens]``."""
        if reading is None:
            return super().forward(hidden)
        if reading.measure is not None:
            return self._measured(hidden, reading, reading.measure)
        return self._read(hidden, reading)

    def _measured(self, hidden: Tensor, reading: Reading, measure: Measure) -> dict[str, Tensor]:
        read = self._read(hidden, reading) if reading.outputs else {}
        return read | measured(
            hidden, reading.targets, measure, head=self.weight, bias=self.bias, logit_map=self.logit_map,
            temperature=reading.temperature,
        )  # fmt: skip

    def _read(self, hidden: Tensor, reading: Reading) -> dict[str, Tensor]:
        told: dict[str, Any] = {"outputs": reading.outputs, "temperature": reading.temperature}
        if len(hidden) * self.out_features > chunk_of(hidden.device):
            return linear_logprobs(
                hidden, self.weight, reading.targets, bias=self.bias, logit_map=self.logit_map, **told
            )
        # All logits fit into a chunk: making them a second time would save nothing.
        return token_logprobs(self.logit_map.of(super().forward(hidden)), reading.targets, **told)


@dataclass(frozen=True)
class Reading:
    """What is asked of the tokens ``targets [num_tokens]``, one a selected position: see ``token_logprobs``; and what
    ``measure`` answers besides."""

    targets: Tensor
    outputs: Sequence[str] = ("logprobs",)
    temperature: float = 1.0
    measure: Measure | None = None


class SelectedLogits(nn.Module):
    """A causal language model that computes its head at the selected positions only.

    Asked for logits, a hook narrows the head's input, so that whatever the architecture does to its logits
    afterwards (scaling, soft-capping) still happens, and never on positions nobody asked for. ``fused``: asked for
    log-probabilities, it never makes the logits of all of them, where what the architecture does is known
    (``logit_map``, else None). ``written``: the config that stands in the model's files, where the model's own
    differs from it.
    """

    def __init__(self, model: Any, written: Any = None, *, fused: bool = False) -> None:
        super().__init__()
        self.model = model
        self.written = written or model.config
        self._select: Tensor | None = None
        self.sharing: Sharing | None = None
        head = model.get_output_embeddings()
        if head is None:
            raise ValueError(f"{type(model).__name__} has no output embeddings")
        self.logit_map = find_logit_map(model) if fused else None
        if self.logit_map is not None:
            # The same module with its parameters, names and sharding; only what it answers is another matter.
            head.__class__ = LogprobHead
            head.logit_map = self.logit_map
        head.register_forward_pre_hook(self._narrow)

    def around(self, model: Any) -> SelectedLogits:
        """The same of another model, which was made of this one's."""
        return SelectedLogits(model, self.written)

    def _narrow(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._select is None:
            return None
        return (selected(args[0], self._select).unsqueeze(0),)

    def forward(
        self, input_ids: Tensor, select: Tensor, position_ids: Tensor | None = None, reading: Reading | None = None
    ) -> Any:
        """Logits ``[num_tokens, vocabulary]`` in the model's dtype; with ``reading`` a dictionary of ``[num_tokens]``.

        Every rank takes the same way through the modules, however many tokens it has: sharded ones wait for each other.
        With ``sharing`` the ranks that share have the same rows, and all get all answers; a measure is of whole rows.
        """
        if self.sharing is None:
            return self._answers(input_ids, select, reading, position_ids=position_ids)
        if reading is not None and reading.measure is not None:
            raise ValueError("what is measured of whole rows is not shared by ranks")
        rows = self.sharing.sliced(input_ids, select, position_ids)
        own = None if reading is None else replace(reading, targets=reading.targets[rows.own])
        return rows.together(self._answers(rows.input_ids, rows.select, own, **rows.told), self.model)

    def _answers(self, input_ids: Tensor, select: Tensor, reading: Reading | None, **told: Any) -> Any:
        if reading is not None and self.logit_map is not None:
            backbone, head = self.model.get_decoder(), self.model.get_output_embeddings()
            hidden = backbone(input_ids=input_ids, use_cache=False, **told).last_hidden_state
            return head(selected(hidden, select), reading)
        self._select = select
        try:
            output = self.model(input_ids=input_ids, use_cache=False, **told)
        finally:
            self._select = None
        logits = cast(Tensor, output.logits).squeeze(0)
        return as_read(logits, reading)


def as_read(logits: Tensor, reading: Reading | None) -> Tensor | dict[str, Tensor]:
    """Whole logits ``[num_tokens, vocabulary]``, or what is read of them."""
    if reading is None:
        return logits
    told: dict[str, Any] = {"temperature": reading.temperature}
    read = token_logprobs(logits, reading.targets, outputs=reading.outputs, **told) if reading.outputs else {}
    return read if reading.measure is None else read | measured(logits, reading.targets, reading.measure, **told)


def selected(hidden: Tensor, select: Tensor) -> Tensor:
    """``[rows, length, width]`` at flat positions, ``[num_tokens, width]``."""
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, select)


class Float32Head(nn.Linear):
    """A linear head that multiplies in float32, whatever dtype its weights and its input have.

    In bfloat16 a score of 5 could only be told from one of 5.03: less than what a pair of answers differs by.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., in]`` of any dtype to float32 ``[..., out]``."""
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(hidden.float(), self.weight.float(), bias)


class SelectedScalars(nn.Module):
    """A backbone with a head on single positions (``AutoModelForSequenceClassification`` of a decoder).

    A head of one output gives that; of several the one numbered ``output``, as a logit or, with
    ``probability``, after the softmax over all of them. The head computes in float32.
    """

    def __init__(self, model: Any, output: int = 0, *, probability: bool = False, written: Any = None) -> None:
        super().__init__()
        self.model = model
        self.written = written or model.config
        self._output, self._probability = output, probability
        self.sharing: Sharing | None = None
        if type(model.score) is nn.Linear:
            # The same module with its parameters, names and sharding; only how it multiplies is another matter.
            model.score.__class__ = Float32Head

    def forward(
        self, input_ids: Tensor, select: Tensor, position_ids: Tensor | None = None, *, every_output: bool = False
    ) -> Tensor:
        """Scalars ``[num_tokens]`` in float32; with ``every_output`` the logits ``[num_tokens, outputs]``. ``sharing``:
        see ``SelectedLogits``."""
        if self.sharing is None:
            return self._answers(input_ids, select, every_output=every_output, position_ids=position_ids)
        rows = self.sharing.sliced(input_ids, select, position_ids)
        own = self._answers(rows.input_ids, rows.select, every_output=every_output, **rows.told)
        return cast(Tensor, rows.together(own, self.model))

    def _answers(self, input_ids: Tensor, select: Tensor, *, every_output: bool, **told: Any) -> Tensor:
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False, **told).last_hidden_state
        scores = self.model.score(selected(hidden, select)).to(torch.float32)
        if every_output:
            return cast(Tensor, scores)
        if self._probability:
            scores = scores.softmax(dim=-1)
        return cast(Tensor, scores[:, self._output])
