"""A small byte-level BPE tokenizer trained on the spot, and the proof that two tokenizers are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from distft.common.errors import UserError
from distft.data.chat_templates import resolve_template
from distft.data.reading_marks import reads_apart, reads_both_ways

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
FIRST, SEPARATOR, MASK = "<|first|>", "<|separator|>", "<|mask|>"
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(32))
_MARKER = re.compile(r"<\|[a-z_]+\|>")
_ROLES = ("system", "user", "assistant", "tool")


Reader: TypeAlias = Literal["llama", "t5", "bert"]


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, chat_template: str = "default", *, reader: Reader = "llama"
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over ``texts`` with at most ``vocab_size`` entries, specials included.

    Special tokens: ``<|pad|>`` (0), ``<|end|>`` (1: end of sequence and of a turn), the turn markers of the
    default template and any other ``<|word|>`` the template spells out. No BOS. Deterministic: the same
    texts in the same order give the same tokenizer. A small corpus gives fewer entries than asked: size
    the model by ``len(tokenizer)`` or larger. UserError where ``vocab_size`` cannot hold the bytes.

    ``reader``: what kind of model reads it. Behind a text for a T5 stands ``<|end|>``, and there are sentinels for
    the spans that are taken out of one (see ``span_corruption``); a text for a BERT, or a pair of
    them, stands between ``<|first|>`` and ``<|separator|>``, and in place of a chat template and ``<|end|>`` there is
    a ``<|mask|>``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template = None if reader == "bert" else resolve_template(chat_template)
    specials = [PAD, FIRST, SEPARATOR, MASK] if template is None else _special_tokens(template)
    specials += SENTINELS if reader == "t5" else ()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(specials):
        raise UserError(
            f"vocab_size {vocab_size} cannot hold the {len(alphabet)} bytes and {len(specials)} special tokens",
            hint=f"use at least {len(alphabet) + len(specials)}",
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer=trainer)
    _put_around(backend, reader)
    named: dict[str, Any] = {"eos_token": END, "additional_special_tokens": specials[2:]}
    if template is None:
        types = ["input_ids", "token_type_ids", "attention_mask"]
        named = {"cls_token": FIRST, "sep_token": SEPARATOR, "mask_token": MASK, "model_input_names": types}
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token=PAD, clean_up_tokenization_spaces=False, **named
    )
    tokenizer.chat_template = template
    return tokenizer


def _put_around(backend: Any, reader: Reader) -> None:
    """What the tokenizer is to write around a text."""
    from tokenizers.processors import TemplateProcessing

    around: dict[Reader, tuple[str, str | None, tuple[str, ...]]] = {
        "t5": (f"$A {END}", None, (END,)),
        "bert": (
            f"{FIRST} $A {SEPARATOR}", f"{FIRST} $A {SEPARATOR} $B:1 {SEPARATOR}:1", (FIRST, SEPARATOR)
        ),
    }  # fmt: skip
    if reader in around:
        single, pair, marks = around[reader]
        numbered = [(token, backend.token_to_id(token)) for token in marks]
        backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=numbered)


def tokenizers_equal(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """True only where it is proven that both turn any text and any conversation into the same ids.

    Compares the whole serialised tokenizer (model, vocabulary, merges, normaliser, pre-tokeniser,
    post-processor, added tokens), the named special tokens and the chat template. Padding and
    truncation settings do not count. A tokenizer without a serialised form proves nothing: False.
    """
    fingerprints = [serialised_tokenizer(tokenizer) for tokenizer in (a, b)]
    return fingerprints[0] is not None and fingerprints[0] == fingerprints[1]


def serialised_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """All that decides a tokenizer's ids, as plain values; None where it has no serialised form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    serialised = json.loads(backend.to_str())
    serialised.pop("truncation", None)
    serialised.pop("padding", None)
    named = {name: str(getattr(tokenizer, name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    apart = {"apart": True} if reads_apart(tokenizer) else {}
    both_ways = {"both_ways": True} if reads_both_ways(tokenizer) else {}
    return {
        "backend": serialised, "named": named, "template": tokenizer.chat_template, **apart, **both_ways
    }  # fmt: skip


def _special_tokens(template: str) -> list[str]:
    """Pad and end first, then the markers in a fixed order, each once."""
    markers = [f"<|{role}|>" for role in _ROLES]
    markers += [marker for marker in _MARKER.findall(template) if marker not in markers]
    return list(dict.fromkeys([PAD, END, *markers]))
