"""What may be typed where a model is wanted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from distft.cli import main
from distft.common.errors import UserError
from distft.config.fewer_bits import QuantizationMethod
from distft.config.load import load_recipe, resolved_yaml
from distft.config.models import Quantization
from distft.data.formats import Message
from distft.launch.evaluate import evaluate
from distft.launch.judged_rows import Wanted
from distft.launch.judging import Judging
from distft.launch.named_models import NamedModel, Reading, find_model, require_speakers, speaks_plainly
from distft.launch.speakers import open_speakers
from distft.models.quantization import as_bitsandbytes
from distft.planning.model_folders import read_config
from distft.rollout.speaker import Question, Speaker
from tests.harness.speakers import write_speaker
from tests.unit.launch.examples import model_folder
from tests.unit.models.encoders import write_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model."""
    return Path(write_speaker(tmp_path_factory.mktemp("named") / "model"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    """A PEFT adapter of it that changes what it says."""
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=3.0)
    model.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


@pytest.mark.parametrize("method", ["nf4", "fp4", "int8"])
def test_an_adapter_beside_a_quantized_model(
    folder: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: QuantizationMethod
) -> None:
    """As transformers and PEFT compute with both, bitsandbytes by its way in training, which rounds weights alone."""
    found = find_model(str(adapter), tmp_path)
    section = found.section(Reading(dtype="float32", quantization=method))
    ours: Any = Speaker.load("it", section, adapter=found.adapter).module.model
    kind = as_bitsandbytes(Quantization(method=method), torch.float32)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=kind)
    theirs: Any = PeftModel.from_pretrained(base, str(adapter)).train()
    ids = torch.arange(20, 40).unsqueeze(0)
    with torch.no_grad():
        wanted = theirs(input_ids=ids).logits
        torch.testing.assert_close(ours(input_ids=ids).logits, wanted, rtol=1e-5, atol=1e-5)
        with theirs.disable_adapter():
            assert (theirs(input_ids=ids).logits - wanted).abs().max() > 1e-3
    words = ["generate", str(adapter), "--prompt", "Who?", "--greedy", "max_new_tokens=4", "--json"]
    assert main([*words, "--quantization", method]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["num_tokens"] <= 4


def test_an_encoder_decoder_is_not_quantized(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(UserError, match=r"is an encoder-decoder, whose linear layers are not quantized") as raised:
        NamedModel("it", str(tmp_path)).section(Reading(dtype="float32", quantization="int8"))
    assert raised.value.where == "--quantization"


def as_run(folder: Path, run_dir: Path, *overrides: str) -> Path:
    """A run folder whose result is that model."""
    shutil.copytree(folder, run_dir / "final")
    (run_dir / "recipe.yaml").write_text(resolved_yaml(load_recipe("sft-tiny", overrides)))
    return run_dir


def test_a_run_by_all_its_names(folder: Path, tmp_path: Path) -> None:
    run = as_run(folder, tmp_path / "run", "rollout.temperature=0.3", "models.policy.stop_tokens=['<|end|>']")
    for name in (f"run:{run}", str(run), str(run / "final")):
        found = find_model(name, tmp_path)
        assert (found.name, Path(found.path), found.notes) == (name, run / "final", ())
        assert found.recipe is not None
        section = found.section(Reading())
        assert (section.dtype, section.stop_tokens) == ("float32", ("<|end|>",))
    with open_speakers([f"run:{run}"], Reading(), ["top_k=5"], plain=None) as ([loaded], settings):
        assert (settings.temperature, settings.top_k, loaded.plain) == (0.3, 5, False)
        assert loaded.speaker.tokenizer.convert_ids_to_tokens(list(loaded.speaker.stop_tokens)) == ["<|end|>"]


def test_virtual_tokens_come_with_the_run_that_trained_them(folder: Path, tmp_path: Path) -> None:
    run = as_run(folder, tmp_path / "run")
    own = run / "final" / "adapter"
    own.mkdir()
    for kind, adapter in (("PROMPT_TUNING", str(own)), ("LORA", None)):
        (own / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
        for name in (f"run:{run}", str(run), str(run / "final")):
            assert find_model(name, tmp_path).adapter == adapter


def test_a_run_on_plain_prompts_is_asked_plainly(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Q: hi A:", "completion": " ho"}\n')
    run = as_run(folder, tmp_path / "run", f"data.train=[{{path: {rows}}}]")
    with open_speakers([str(run)], Reading(), [], plain=None) as ([loaded], _):
        assert loaded.plain
        assert loaded.notes == (
            f"{run} was trained on plain prompts: texts are given to it as they are "
            "(--chat makes conversations of them)",
        )
    recipe = load_recipe("sft-tiny")
    assert speaks_plainly(recipe) is False
    rows.unlink()
    assert speaks_plainly(load_recipe("sft-tiny", [f"data.train.0.path={rows}"])) is None


def test_an_adapter_alone_and_with_its_base(folder: Path, adapter: Path, tmp_path: Path) -> None:
    found = find_model(str(adapter), tmp_path)
    assert (found.path, found.adapter) == (str(folder), str(adapter))
    assert find_model(str(folder), tmp_path, adapter=str(adapter)) == NamedModel(str(folder), str(folder), str(adapter))
    with open_speakers([str(adapter)], Reading(), [], plain=None) as ([loaded], _):
        merged = loaded.speaker.module.model
    base = AutoModelForCausalLM.from_pretrained(folder)
    unmerged = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).eval()
    unmerged.load_adapter(str(adapter), "learned")
    unmerged.set_adapter("learned")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, unmerged(ids).logits, atol=1e-3, rtol=1e-3)
        unmerged.set_adapter("default")  # whose B is zero
        assert (merged(ids).logits - unmerged(ids).logits).abs().max() > 0.1


def test_adapters_side_by_side_are_held_once(folder: Path, adapter: Path, tmp_path: Path) -> None:
    """Beside the base itself, in any order: each says what it says alone."""
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    kept = load_file(other / "adapter_model.safetensors")
    half = {name: 0.5 * tensor if "lora_B" in name else tensor for name, tensor in kept.items()}
    save_file(half, other / "adapter_model.safetensors")
    names = [str(adapter), str(folder), str(other)]
    questions = [Question((Message("user", "Where is my kettle?"),), 0, "prompt 1")]
    with open_speakers(names, Reading(), ["max_new_tokens=12"], plain=None) as (loaded, settings):
        speakers = [one.speaker for one in loaded]
        assert [one.name for one in speakers] == names
        assert len({id(one.module) for one in speakers}) == 1
        said = [next(one.answers(questions, settings, 1)) for one in (*speakers, speakers[0])]
    assert said[0] == said[3]
    assert len({one.ids for one in said}) == 3
    for name, together in zip(names, said, strict=False):
        with open_speakers([name], Reading(), ["max_new_tokens=12"], plain=None) as ([one], settings):
            alone = next(one.speaker.answers(questions, settings, 1))
        assert (alone.ids, alone.logprob) == (together.ids, pytest.approx(together.logprob, abs=1e-2))


def test_an_adapter_of_another_model(adapter: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    other = Path(write_speaker(tmp_path / "gpt2"))
    config = AutoConfig.for_model(
        "gpt2", vocab_size=400, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    with (
        pytest.raises(UserError, match=r"adapter: cannot be put into GPT2LMHeadModel: .*\n.*trained from this model"),
        open_speakers([str(other)], Reading(adapter=str(adapter)), [], plain=None),
    ):
        pass


def test_a_reward_model_does_not_speak(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", head=(1, 8))
    text = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(text + ', "architectures": ["LlamaForSequenceClassification"]}')
    with pytest.raises(UserError, match=r"is a reward model.*\n.*distft eval"):
        require_speakers([find_model(str(folder), tmp_path)])


def test_an_encoder_neither_speaks_nor_is_judged_as_what_does(folder: Path, tmp_path: Path) -> None:
    bert, scorer = (write_encoder(tmp_path / f"bert-{labels}", "bert", num_labels=labels) for labels in (None, 1))
    said = r"bert-None: is an encoder: .*writes no answers\n.*fill-mask"
    assert not find_model(scorer, tmp_path).is_masked_lm
    with pytest.raises(UserError, match=said), open_speakers([str(folder), bert], Reading(), [], plain=None):
        pass
    rows = tmp_path / "pairs.jsonl"
    rows.write_text('{"prompt": "Q", "chosen": "a", "rejected": "b"}\n')
    for names, reference in (([bert], None), ([str(folder)], bert)):
        with pytest.raises(UserError, match=said):
            evaluate(names, Judging(Wanted(files=(str(rows),)), Reading(), answers=False, reference=reference))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run:nowhere", r"run:nowhere: the run nowhere does not exist.*\n.*make it with: distft train"),
        ("run:runs/min", r"run:runs/min: .*\n  did you mean run:runs/mine\? else make it with: distft train RECIPE"),
        ("mine", r"mine: mine is neither a folder here.*\n  did you mean run:runs/mine\?"),
        ("./nowhere", r"there is no folder ./nowhere"),
        ("somebody/nothing", "neither a folder here nor in the hub cache, and the hub is switched off"),
        (".", r"has no config.json: it is not a model folder"),
        (" ", "a model has no name"),
        ("unfinished", r"the run unfinished has not finished"),
        ("orphan", r"orphan: is an adapter, whose base cannot be read: .*\n.*MODEL --adapter orphan"),
    ],
)
def test_what_is_no_model(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "runs/mine/final").mkdir(parents=True)
    (tmp_path / "runs/mine/final/config.json").write_text("{}")
    (tmp_path / "runs/mine/recipe.yaml").touch()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/recipe.yaml").write_text(resolved_yaml(load_recipe("sft-tiny")))
    (tmp_path / "orphan").mkdir()
    (tmp_path / "orphan/adapter_config.json").write_text('{"base_model_name_or_path": "./gone"}')
    with pytest.raises(UserError, match=said):
        find_model(name, tmp_path)


def test_the_labels_that_transformers_does_not_write(tmp_path: Path) -> None:
    two = write_encoder(tmp_path / "two", "bert", num_labels=2)
    assert "id2label" not in read_config(Path(two))
    assert find_model(two, tmp_path).labels == ("LABEL_0", "LABEL_1")
    other = write_encoder(tmp_path / "other", "bert", num_labels=2, id2label={0: "no", 1: "yes"})
    assert find_model(other, tmp_path).labels == ("no", "yes")
