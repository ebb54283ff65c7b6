"""Tokenizers and small files for the tests of the data package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from distft.data.builtin import dialogues
from distft.data.tokenizer_training import train_tokenizer

_WORDS = ["The capital of France is Paris. " * 9, "Answer: yes. Answer: no. " * 9, "b\n\n\n\n- a" * 9]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Trained on the embedded corpus, with the default template."""
    return train_tokenizer((row["messages"][0]["content"] for row in dialogues("eval")), 600)


@pytest.fixture
def merging() -> PreTrainedTokenizerFast:
    """Knows ' Paris' and two or three line breaks as one token each; the caller may set a template."""
    found = train_tokenizer(_WORDS, 400)
    assert len(found.tokenize(" Paris")) == 1
    assert len(found.tokenize("\n\n")) == len(found.tokenize("\n\n\n")) == 1
    return found


@pytest.fixture
def with_bos() -> PreTrainedTokenizerFast:
    """Puts <s> before and </s> behind every text by itself, as some tokenizers do."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_WORDS, trainer=trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """``write(rows, name)``: a JSON lines file; gives its path."""

    def _write(rows: Iterable[dict[str, Any]], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return _write


@pytest.fixture(scope="session", params=["always", "first", "never", "in the text"])
def sentencepiece(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Metaspace tokenizers by where they put a space of their own: as Llama 2, T5 and Gemma do, and before 2024."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    if request.param == "in the text":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=request.param)
        backend.decoder = decoders.Metaspace(prepend_scheme=request.param)
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    alphabet = sorted({*"".join(_WORDS), *"▁[]:?./INST"})
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(_WORDS, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
