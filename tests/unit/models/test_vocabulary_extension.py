"""Rows for new tokens: their values, what stays as it was, and what cannot be a token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.config.models import Model
from distft.data.tokenizer_training import train_tokenizer
from distft.models.families.family import find_family
from distft.models.limits import embedding_rows
from distft.models.tokenizer import load_tokenizer
from distft.models.vocabulary_extension import add_tokens, with_rows
from distft.planning.encoder_decoders import WITH_TWO_VOCABULARIES
from distft.planning.weight_files import tensor_shapes
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import ENCODER_DECODERS, has_own_head, write_encoder_decoder

KEY = "models.policy.extend_vocabulary"
TEXT = "w3 w40 w8 w95"


def written(folder: Path, architecture: str, *, tied: bool = True, tokens: int = tiny.VOCABULARY, **more: Any) -> Path:
    """A tiny model with its tokenizer."""
    tiny.write_model(folder, architecture, tied=tied, **more)
    tiny.tokenizer(tokens).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "phi"])
def test_new_rows_are_the_mean_and_nothing_else_changes(architecture: str, tied: bool, tmp_path: Path) -> None:
    source = written(tmp_path / "source", architecture, tied=tied)
    numbers = tiny.extend_model(source, tmp_path / "target")
    assert numbers == [96, 97, 98]
    old, new = (AutoModelForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("source", "target"))
    before, after = dict(old.named_parameters()), dict(new.named_parameters())
    assert before.keys() == after.keys()
    longer = {name for name in after if after[name].shape != before[name].shape}
    ends = (new.get_input_embeddings(), new.get_output_embeddings())
    assert (ends[0].weight is ends[1].weight) == tied
    bias = ends[1].bias is not None
    assert bias == (architecture == "phi")
    assert len(longer) == (1 if tied else 2) + bias
    for name in before:
        assert torch.equal(after[name][:96] if name in longer else after[name], before[name]), name
        for row in after[name][96:] if name in longer else ():
            assert torch.equal(row, before[name].double().mean(dim=0).float())
    assert new.config.vocab_size == 99
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "target")(TEXT)["input_ids"]])
    with torch.no_grad():
        was, now = old(ids).logits, new(ids).logits
    torch.testing.assert_close(now[..., :96], was, rtol=1e-5, atol=1e-5)
    if architecture != "gemma2":  # its logits are capped behind the head
        torch.testing.assert_close(now[..., 96:], was.mean(dim=-1, keepdim=True).expand(1, 4, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ENCODER_DECODERS if name not in WITH_TWO_VOCABULARIES])
def test_of_an_encoder_decoder_both_sides_get_them(name: str, tmp_path: Path) -> None:
    """And the head, its own or the embedding; the bias of BART's logits, which lies across."""
    source = write_encoder_decoder(tmp_path / "source", name)
    if "final_logits_bias" in tensor_shapes(Path(source)):
        changed = load_file(tmp_path / "source" / "model.safetensors")
        changed["final_logits_bias"] = torch.linspace(-1.0, 2.0, tiny.VOCABULARY)[None]
        save_file(changed, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    assert tiny.extend_model(source, tmp_path / "target") == [96, 97, 98]
    models: list[Any] = [AutoModelForSeq2SeqLM.from_pretrained(tmp_path / part).eval() for part in ("source", "target")]
    old, new = models
    assert new.config.vocab_size == 99
    assert has_own_head(new) == has_own_head(old) == ENCODER_DECODERS[name][1]
    for of in (lambda model: model.get_encoder(), lambda model: model.get_decoder(), lambda model: model):
        before, after = (of(model).get_input_embeddings().weight for model in models)
        assert torch.equal(after[:96], before)
        assert torch.equal(after[96:], before.double().mean(dim=0).float().expand(3, 16))
    told = {"input_ids": torch.tensor([[5, 9, 40, 8]]), "labels": torch.tensor([[7, 30, 2]])}
    with torch.no_grad():
        was, now = (model(**told).logits for model in models)
    torch.testing.assert_close(now[..., :96], was, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(now[..., 96:], was.mean(dim=-1, keepdim=True).expand(1, 3, 3), rtol=1e-4, atol=1e-4)
    loaded = find_family("seq2seq").load(str(tmp_path / "target"), Model(dtype="float32"), dropout=False).module
    assert has_own_head(loaded.model) == ENCODER_DECODERS[name][1]


def test_by_hand() -> None:
    """Three known rows, one that belonged to nobody, and a fourth that is not there yet."""
    rows = torch.tensor([[1.0, 4.0], [2.0, 8.0], [6.0, 0.0], [100.0, 100.0]])
    assert with_rows(rows, [3, 4], 3, 5).tolist() == [[1, 4], [2, 8], [6, 0], [3, 4], [3, 4]]
    assert with_rows(rows.bfloat16(), [3], 3, 4).tolist() == [[1, 4], [2, 8], [6, 0], [3, 4]]
    assert with_rows(torch.tensor([1.0, 2.0, 6.0]), [3], 3, 4).tolist() == [1, 2, 6, 3]


def test_rows_without_a_token_are_taken_first(tmp_path: Path) -> None:
    """Of 96 rows 94 have a token: the head grows by one, and the mean is that of 94."""
    source = written(tmp_path / "source", "llama", tokens=94)
    assert tiny.extend_model(source, tmp_path / "target") == [94, 95, 96]
    old, new = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("source", "target"))
    before, after = old.get_input_embeddings().weight, new.get_input_embeddings().weight
    assert after.shape == (97, 16)
    assert torch.equal(after[:94], before[:94])
    assert torch.equal(after[94:], before[:94].double().mean(dim=0).float().expand(3, 16))


def test_files_without_either_are_links(tmp_path: Path) -> None:
    source = written(tmp_path / "whole", "llama", tied=False)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "source", max_shard_size="7kB")
    tiny.tokenizer().save_pretrained(tmp_path / "source")
    tiny.extend_model(tmp_path / "source", tmp_path / "target")
    files = sorted((tmp_path / "target").glob("*.safetensors"))
    links = [path for path in files if path.is_symlink()]
    assert 0 < len(links) < len(files)
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    ours, theirs = new.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name][: len(theirs[name])], theirs[name]) for name in theirs)


def test_the_folder_can_be_had_without_weights(tmp_path: Path) -> None:
    source = written(tmp_path / "source", "llama")
    tiny.extend_model(source, tmp_path / "target", weights=False)
    assert not list((tmp_path / "target").glob("*.safetensors"))
    assert json.loads((tmp_path / "target" / "config.json").read_text())["vocab_size"] == 99
    assert "a bird" in load_tokenizer(str(tmp_path / "target")).get_vocab()


@pytest.mark.parametrize("top", [{}, {"vocab_size": 7}])
@pytest.mark.parametrize("nested", [{"vocab_size": 96}, {"num_hidden_layers": 1}])
def test_the_rows_are_said_where_the_class_looks(top: dict[str, Any], nested: dict[str, Any], tmp_path: Path) -> None:
    """Of a model of several parts in its text's own config, whatever stands at the top."""
    source, target = tmp_path / "source", tmp_path / "target"
    tiny.tokenizer().save_pretrained(source)
    (source / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": nested} | top))
    before = embedding_rows(str(source))
    assert before is not None
    tiny.extend_model(source, target, weights=False)
    written = json.loads((target / "config.json").read_text())
    assert embedding_rows(str(target)) == written["text_config"]["vocab_size"] == max(before, 99)
    assert written.get("vocab_size") == (written["text_config"]["vocab_size"] if top else None)


def test_a_text_becomes_one_token_wherever_it_stands(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["one two three and four"] * 3, 300)
    before = len(tokenizer)
    texts = ["日本", "日本語", " größe", " two", "two words"]
    assert add_tokens(tokenizer, texts, KEY) == [*range(before, before + 4)], "one of them is a token already"
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = again("one 日本語 größe", add_special_tokens=False)["input_ids"]
    assert ids[-2:] == [before + 1, before + 2], "the longest one"
    assert again.decode(ids) == "one 日本語 größe"


def test_a_tokenizer_that_marks_the_beginning_of_words() -> None:
    """As Llama 2's: spaces beside a new token are neither lost nor doubled, and inside a word it is none."""
    backend = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.train_from_iterator(["a café and a cat"] * 3, BpeTrainer(special_tokens=["<unk>"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    [number] = add_tokens(tokenizer, ["café can"], KEY)
    for text, there in (("a café can", True), ("café can and a café can", True), ("acafé cana", False)):
        ids = tokenizer.encode(text)
        assert (number in ids) == there
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["one"], r"models.policy.extend_vocabulary: what is to be a token, 'one', is one already"),
        (["one", " two"], r"what is to be a token, all 2, are some already"),
        (["café"], r"'café' comes back as 'caf.': this tokenizer cannot have it as one token\n.*space.*: ' café'"),
    ],
)
def test_what_cannot_be_a_token(texts: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        add_tokens(train_tokenizer(["one two three and four"] * 3, 300), texts, KEY)


def test_weights_under_other_names_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "source", "llama")
    file = source / "model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("embed_tokens", "words"): tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(
        UserError, match=r"none of its weights is called as its embedding is \(model.embed_tokens.weight"
    ):
        tiny.extend_model(source, tmp_path / "target")
