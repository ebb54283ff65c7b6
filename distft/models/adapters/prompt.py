"""Virtual tokens (prompt tuning, P-tuning): embeddings ``[num, hidden]`` of a model stand before those of every
sequence, and are gone from what it answers, so that nobody else need know of them.

Its decoder is hooked: where it is given whole sequences of ids, it takes embeddings in their place. Of an
encoder-decoder it is the encoder, whose sequences are the prompts; its decoder is told that they are longer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prompt import PromptTuning
from distft.models.adapters.virtual_tokens import BeforeSequences, drawn, kept_in, say_to_peft
from distft.models.tokenizer import load_tokenizer


class Prompt(BeforeSequences):
    """``embedding``: the model's own, of ids."""

    def __init__(self, start: Tensor, encoder: nn.Sequential | None, embedding: nn.Module) -> None:
        super().__init__(start, encoder)
        self._embedding = [embedding]  # in a list it is no part of this module
        self._own: Tensor | slice | None = None  # where a call's own tokens stand behind them

    def put_before(self, _decoder: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Of a decoder's call: whole sequences begin with them, behind padding on the left; what goes on from a cache,
        in which they are, knows where it stands."""
        self._own = None
        if not self.enabled:
            return None
        told = dict(given)
        if args:
            told["input_ids"] = args[0]
        mask, positions, cache = (given.get(key) for key in ("attention_mask", "position_ids", "past_key_values"))
        order = None
        if mask is not None:
            order = self._ordered(mask)
            told["attention_mask"] = torch.cat([mask.new_ones(len(mask), self.number), mask], dim=1).gather(1, order)
        if positions is not None:
            told["position_ids"] = positions + self.number
        if cache is None or not cache.get_seq_length():
            embedded = self._embedding[0](told.pop("input_ids"))
            both = torch.cat([self(len(embedded)).to(embedded.dtype), embedded], dim=1)
            told["inputs_embeds"] = both if order is None else both.gather(1, order.unsqueeze(2).expand_as(both))
            if positions is not None:
                first = torch.arange(self.number, device=positions.device).expand(len(both), -1)
                whole = torch.cat([first, told["position_ids"].expand(len(both), -1)], dim=1)
                told["position_ids"] = whole if order is None else whole.gather(1, order)
            self._own = slice(self.number, None) if order is None else order.argsort(dim=1)[:, self.number :]
        return args[1:], told

    def cut_off(self, _decoder: Any, _args: Any, output: Any) -> Any:
        """What is answered at them is nobody's."""
        found = output.last_hidden_state
        if isinstance(self._own, slice):
            output.last_hidden_state = found[:, self._own]
        elif self._own is not None:
            output.last_hidden_state = found.gather(1, self._own.unsqueeze(2).expand(-1, -1, found.shape[2]))
        return output

    def tell_decoder(self, _decoder: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Of a decoder that reads an encoder's states: those at them are read like the others."""
        mask = given.get("encoder_attention_mask")
        if mask is None or not self.enabled:
            return None
        longer = torch.cat([mask.new_ones(len(mask), self.number), mask], dim=1).gather(1, self._ordered(mask))
        return args, {**given, "encoder_attention_mask": longer}

    def _ordered(self, mask: Tensor) -> Tensor:
        """Of virtual tokens and then a row's own, ``[rows, num + length]``, which stands where: padding comes first."""
        padded = (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        place = torch.arange(self.number + mask.shape[1], device=mask.device).expand(len(mask), -1)
        behind = torch.where(place < padded + self.number, place - padded, place)
        return torch.where(place < padded, place + self.number, behind)


def add(model: Any, prompt: PromptTuning, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none
    """Puts virtual tokens before a decoder's sequences, or an encoder's prompts. Raises UserError where ``text`` needs
    a tokenizer that is not there, and for an encoder with an embedding of its own."""
    from peft import PromptTuningConfig

    _attach(model, _start(model, prompt, seed), None)
    say_to_peft(model, PromptTuningConfig(num_virtual_tokens=prompt.num_virtual_tokens, **_told(model)))


def add_encoded(model: Any, tuned: PTuning, *, dropout: bool, seed: int, fresh: bool) -> None:  # noqa: ARG001 - none
    """Puts what an encoder makes before a decoder's sequences."""
    from peft import PromptEncoderConfig

    _attach(model, *drawn(model, tuned, seed))
    told = _told(model)
    inner = tuned.encoder_hidden_size or told["token_dim"]
    number = tuned.num_virtual_tokens
    say_to_peft(model, PromptEncoderConfig(num_virtual_tokens=number, encoder_hidden_size=inner, **told))


def read(model: Any, folder: str) -> Any:
    """The model with the virtual tokens that lie in a folder of PEFT's. Raises KeyError where it holds none."""
    _attach(model, kept_in(folder).to(model.dtype), None)
    return model


def _told(model: Any) -> dict[str, Any]:
    text = model.config.get_text_config()
    return {
        "token_dim": text.hidden_size,
        "num_transformer_submodules": 1,
        "num_attention_heads": text.num_attention_heads,
        "num_layers": text.num_hidden_layers,
    }


def _start(model: Any, prompt: PromptTuning, seed: int) -> Tensor:
    from peft.utils.integrations import gather_params_ctx

    embedding, number = model.get_input_embeddings(), prompt.num_virtual_tokens
    text = model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    if model.device.type == "meta":
        return torch.empty(number, text.hidden_size, device="meta")
    if prompt.start == "random":
        return torch.randn(number, text.hidden_size, generator=generator).to(model.device)
    if prompt.start == "vocabulary":
        ids = torch.randint(0, text.vocab_size, (number,), generator=generator)
    else:
        tokenizer = load_tokenizer(model.config.name_or_path, trust_remote_code=False, chat_template=None)
        said = tokenizer(prompt.text)["input_ids"]
        ids = torch.tensor(said).repeat(-(-number // len(said)))[:number]
    with torch.no_grad(), gather_params_ctx(embedding.parameters()):
        return torch.as_tensor(embedding(ids.to(model.device))).clone()


def _attach(model: Any, start: Tensor, encoder: nn.Sequential | None) -> None:
    apart, decoder = model.config.is_encoder_decoder, model.get_decoder()
    reader = model.get_encoder() if apart else decoder
    embedding = model.get_input_embeddings()
    if apart and reader.get_input_embeddings().weight is not embedding.weight:
        what = "its encoder has an embedding of its own, and PEFT would read prompts behind virtual tokens by another"
        raise UserError(what, where=model.config.name_or_path, hint="models.policy.peft={method: lora}")
    tokens = model.virtual_tokens = Prompt(start.to(model.device), encoder, embedding)
    reader.register_forward_pre_hook(tokens.put_before, with_kwargs=True)
    if apart:
        decoder.register_forward_pre_hook(tokens.tell_decoder, with_kwargs=True)
    else:
        decoder.register_forward_hook(tokens.cut_off)
