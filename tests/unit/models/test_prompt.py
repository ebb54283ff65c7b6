"""Virtual tokens before a decoder's sequences, and in an encoder before its prompts, beside PEFT's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from distft.common.errors import UserError
from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.config.models import Model
from distft.models.adapters.adapt import add_adapters, without_adapters
from distft.models.adapters.merging import merge_adapter, plain_tensors
from distft.models.export import export_adapter
from distft.models.families.causal import load_causal
from distft.models.families.family import find_family
from distft.models.tokenizer import load_tokenizer
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import ENCODER_DECODERS, write_encoder_decoder
from tests.unit.models.families import FAMILIES, write_family

IDS = torch.arange(10, 24).unsqueeze(0)
NUMBER = 5
PROMPT = PromptTuning(method="prompt", num_virtual_tokens=NUMBER)
P_TUNING = PTuning(method="p_tuning", num_virtual_tokens=NUMBER)
PREFIX = PrefixTuning(method="prefix", num_virtual_tokens=NUMBER)
PROJECTED = PrefixTuning(method="prefix", num_virtual_tokens=NUMBER, projection=True)


def cases(adapter: VirtualTokens, *default: str) -> list[Any]:
    """Each family that may have it, all but those of ``default`` slow."""
    named = [name for name, (family, _) in FAMILIES.items() if family in adapter.families]
    if isinstance(adapter, PrefixTuning):
        named.remove("qwen2_window")
    return [
        pytest.param(name, adapter, id=f"{name}-{adapter.method}", marks=[] if name in default else pytest.mark.slow)
        for name in named
    ]


def with_tokens(folder: str, prompt: VirtualTokens = PROMPT, dtype: Literal["bfloat16", "float32"] = "float32") -> Any:
    module: Any = load_causal(folder, Model(path=folder, dtype=dtype), dropout=False).eval()
    add_adapters(module.model, prompt, dropout=False, seed=1)
    return module


def embeddings(module: Any) -> torch.Tensor:
    [(name, found)] = [(name, p.detach()) for name, p in module.named_parameters() if p.requires_grad]
    assert name == "model.virtual_tokens.prompt_embeddings"
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "adapter"), [
    *cases(PROMPT, "mistral", "gemma2"), *cases(P_TUNING, "qwen2"), *cases(PREFIX, "llama", "gpt2"),
    *cases(PROJECTED, "qwen3"),
])  # fmt: skip
@torch.no_grad()
def test_they_compute_what_pefts_do(tmp_path: Path, name: str, adapter: VirtualTokens) -> None:
    """Kept, read over a fresh base by PEFT and here; switched off; generated with, beside padding and from a cache."""
    folder, kept = write_family(tmp_path / "start", name), tmp_path / "kept"
    module = with_tokens(folder, adapter)
    model = module.model
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain, wanted = base(input_ids=IDS).logits, model(input_ids=IDS).logits
    assert (plain - wanted).abs().max() > 1e-3
    torch.testing.assert_close(module(input_ids=IDS, select=torch.arange(IDS.numel())), wanted[0])
    with without_adapters(module):
        torch.testing.assert_close(model(input_ids=IDS).logits, plain)

    trained = {name.removeprefix("model."): p.detach() for name, p in module.named_parameters() if p.requires_grad}
    export_adapter(model, trained, folder, kept, "CAUSAL_LM")
    assert not json.loads((kept / "adapter_config.json").read_text()).get("modules_to_save")
    weights = {name for name, _ in plain_tensors(((n, p.data) for n, p in module.named_parameters()), module)}
    assert weights == {f"model.{name}" for name, _ in base.named_parameters()}
    by_peft: Any = PeftModel.from_pretrained(base, kept).eval()
    torch.testing.assert_close(by_peft(input_ids=IDS).logits[:, -IDS.shape[1] :], wanted)
    fresh: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(merge_adapter(fresh, str(kept))(input_ids=IDS).logits, wanted)

    rows, width = [IDS[0, :9].tolist(), IDS[0, 3:8].tolist()], 9
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    written = model.generate(
        input_ids=padded, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    for row, found in zip(rows, written[:, width:].tolist(), strict=True):
        whole = list(row)
        for _ in range(6):
            whole.append(int(model(input_ids=torch.tensor([whole])).logits[0, -1].argmax()))
        assert found == whole[len(row) :]


@pytest.mark.parametrize("name", [name for name in ENCODER_DECODERS if name != "bart-untied"])
@torch.no_grad()
def test_before_an_encoders_prompts_they_compute_what_pefts_do(tmp_path: Path, name: str) -> None:
    """As above; read where PEFT has kept them, too. PEFT does not shift past padding on the left; ours is on the
    right."""
    folder, kept = write_encoder_decoder(tmp_path / "start", name), tmp_path / "kept"
    family = find_family("seq2seq")
    module: Any = family.load(folder, Model(path=folder, dtype="float32"), dropout=False).module.eval()
    add_adapters(module.model, PROMPT, dropout=False, seed=1)
    base: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    mask = torch.ones_like(IDS)
    mask[0, 11:] = 0
    told = {"input_ids": IDS, "attention_mask": mask, "labels": torch.tensor([[7, 30, 12, 2]])}
    plain, wanted = base(**told).logits, module.model(**told).logits
    assert (plain - wanted).abs().max() > 1e-3
    with without_adapters(module):
        torch.testing.assert_close(module.model(**told).logits, plain)
    torch.testing.assert_close(
        module.model(**(told | {"input_ids": IDS[:, :11], "attention_mask": mask[:, :11]})).logits, wanted
    )

    export_adapter(module.model, {"virtual_tokens.prompt_embeddings": embeddings(module)}, folder, kept, "SEQ_2_SEQ_LM")
    by_peft: Any = PeftModel.from_pretrained(base, kept).eval()
    torch.testing.assert_close(by_peft(**told).logits, wanted)
    for place in (kept, tmp_path / "pefts"):
        fresh: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
        torch.testing.assert_close(merge_adapter(fresh, str(place))(**told).logits, wanted)
        twice = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=NUMBER)
        pefts: Any = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32), twice)
        pefts.prompt_encoder["default"].embedding.weight[:NUMBER] = embeddings(module)
        pefts.save_pretrained(tmp_path / "pefts")

    asked = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": tiny.PAD}
    written = module.model.generate(input_ids=IDS, **asked, eos_token_id=None)
    assert written.tolist() == by_peft.generate(input_ids=IDS, **asked, eos_token_id=None).tolist()


def test_an_encoder_with_an_embedding_of_its_own_has_none(tmp_path: Path) -> None:
    folder = write_encoder_decoder(tmp_path, "bart-untied")
    module: Any = find_family("seq2seq").load(folder, Model(path=folder, dtype="float32"), dropout=False).module
    with pytest.raises(UserError, match=r"its encoder has an embedding of its own"):
        add_adapters(module.model, PROMPT, dropout=False, seed=1)


@pytest.mark.parametrize("kind", [PromptTuning, PTuning, PrefixTuning])
def test_every_type_of_decoder_that_may_have_them_has_a_case(kind: type[VirtualTokens]) -> None:
    cases = {family for family, _ in FAMILIES.values()} | {family for family, *_ in ENCODER_DECODERS.values()}
    assert cases >= set(kind.families)


def test_prefix_is_not_put_before_a_window(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"see a window of a sequence only[\s\S]*prompt, which"):
        with_tokens(write_family(tmp_path, "qwen2_window"), PREFIX)


def test_what_they_begin_as(model_folder: Callable[..., str], tmp_path: Path) -> None:
    folder = model_folder("llama")
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    embedding = base.get_input_embeddings().weight.detach()
    drawn = embeddings(with_tokens(folder))
    assert all((embedding == row).all(dim=1).any() for row in drawn)
    assert torch.equal(drawn, embeddings(with_tokens(folder)))
    random = embeddings(with_tokens(folder, PROMPT.model_copy(update={"start": "random", "num_virtual_tokens": 400})))
    assert random.std().item() == pytest.approx(1.0, abs=0.1)
    half = embeddings(with_tokens(folder, PROMPT.model_copy(update={"start": "random"}), "bfloat16"))
    assert half.dtype == torch.bfloat16
    base.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    text = "What is to be done: "
    of_text = embeddings(with_tokens(str(tmp_path), PROMPT.model_copy(update={"start": "text", "text": text})))
    ids = load_tokenizer(str(tmp_path), trust_remote_code=False, chat_template=None)(text)["input_ids"]
    assert torch.equal(of_text, embedding[torch.tensor((ids * NUMBER)[:NUMBER])])
