"""The forward passes of an encoder-decoder, its head computed only where a loss looks; see ``selected``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from distft.algorithms.linear_logprobs import LogitMap
from distft.common.errors import UserError
from distft.models.logit_map import CONFUSED, Answer, answering
from distft.models.selected import Float32Head, LogprobHead, Reading, SelectedLogits, as_read, selected


class SelectedAnswers(SelectedLogits):
    """An encoder-decoder that computes its head at the selected positions of its answers only. ``path``: where it lies,
    for messages. Raises UserError where it does not say with which token an answer begins.
    """

    def __init__(self, model: Any, path: str, written: Any = None, *, fused: bool = False) -> None:
        super().__init__(model, written, fused=False)
        self._path, self._start = path, answer_start(model, path)
        self._scale = find_state_scale(model) if fused else None
        if self._scale is not None:
            head = model.get_output_embeddings()
            head.__class__ = LogprobHead
            head.logit_map = self.logit_map = LogitMap()

    def around(self, model: Any) -> SelectedAnswers:
        """See ``SelectedLogits``."""
        return SelectedAnswers(model, self._path, self.written)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        answer_ids: Tensor,
        select: Tensor,
        reading: Reading | None = None,
    ) -> Any:
        """``input_ids`` and ``attention_mask [rows, longest prompt]``, ``answer_ids [rows, longest answer]``, both
        padded on the right; ``select`` as flat indices of ``rows * longest answer``. Results as of ``SelectedLogits``.
        """
        before = answer_ids.new_full((len(answer_ids), 1), self._start)
        told = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "decoder_input_ids": torch.cat([before, answer_ids[:, :-1]], dim=1),
        }
        if reading is not None and self._scale is not None:
            hidden = selected(_states(self.model, **told), select)
            return self.model.get_output_embeddings()(hidden if self._scale == 1.0 else hidden * self._scale, reading)
        self._select = select
        try:
            output = self.model(**told, use_cache=False)
        finally:
            self._select = None
        logits = cast(Tensor, output.logits).squeeze(0)
        return as_read(logits, reading)


class AnswerValues(nn.Module):
    """An encoder-decoder with a head of one output on single states of its decoder, in float32
    (``AutoModelForSequenceClassification`` of T5 and BART). ``path``, and what is raised: see ``SelectedAnswers``.
    """

    def __init__(self, model: Any, path: str, written: Any = None) -> None:
        super().__init__()
        self.model = model
        self.written = written or model.config
        self._start = answer_start(model, path)
        for part in model.classification_head.modules():
            if type(part) is nn.Linear:  # the same module, as in ``SelectedScalars``
                part.__class__ = Float32Head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, answer_ids: Tensor, select: Tensor) -> Tensor:
        """Scalars ``[num_states]`` in float32. ``input_ids``, ``attention_mask``, ``answer_ids``: see
        ``SelectedAnswers``; ``select`` as flat indices of ``rows * (longest answer + 1)``: state k of a row has read k
        tokens of its answer.
        """
        before = answer_ids.new_full((len(answer_ids), 1), self._start)
        hidden = self.model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=torch.cat([before, answer_ids], dim=1),
            use_cache=False,
        ).last_hidden_state
        scalars = self.model.classification_head(selected(hidden, select)).to(torch.float32)
        return cast(Tensor, scalars[:, 0])


def answer_start(model: Any, path: str) -> int:
    """The token that stands before every answer. Raises UserError where neither config nor generation settings say."""
    for said in (model.config, getattr(model, "generation_config", None)):
        start = getattr(said, "decoder_start_token_id", None)
        if isinstance(start, int):
            return start
    raise UserError(
        "does not say with which token an answer begins",
        where=path,
        hint="its config.json needs decoder_start_token_id: of T5 the padding token, of BART the end of sequence",
    )


def find_state_scale(model: Any) -> float | None:
    """What the decoder's last states are multiplied with before they go into the head (T5 with a tied head: 1 /
    sqrt(d_model)), where logits are the head's products and nothing more; else None. Found out as ``find_logit_map``
    does it: the model's own forward pass is run with parts that answer what they are told."""
    head, encoder, decoder = model.get_output_embeddings(), model.get_encoder(), model.get_decoder()
    if type(head) is not nn.Linear or head.bias is not None:
        return None
    states = torch.linspace(-2.0, 2.0, 4 * head.in_features).reshape(1, 4, head.in_features).to(head.weight.dtype)
    products = torch.linspace(-60.0, 60.0, 4).reshape(1, 4, 1)
    read: list[Tensor] = []

    def answer(hidden: Tensor) -> Tensor:
        read.append(hidden)
        return products.clone()

    try:
        with torch.no_grad(), ExitStack() as stack:
            for part in (encoder, decoder):
                stack.enter_context(answering(part, lambda *_, **__: Answer(states)))
            stack.enter_context(answering(head, answer))
            ids = torch.zeros(states.shape[:2], dtype=torch.int64)
            logits = model.forward(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits
    except CONFUSED:
        return None
    if len(read) != 1 or not bool((logits.float() == products).all()):
        return None
    width = int(getattr(model.config, "d_model", head.in_features))
    return next((scale for scale in (1.0, width**-0.5) if torch.equal(read[0], states * scale)), None)


def _states(model: Any, *, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
    """The decoder's last states ``[rows, longest answer, hidden]``."""
    backbone = getattr(model, model.base_model_prefix, None)
    if isinstance(backbone, nn.Module):
        told = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
        return cast(Tensor, backbone(**told, use_cache=False).last_hidden_state)
    encoded = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return cast(
        Tensor,
        model.get_decoder()(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        ).last_hidden_state,
    )
