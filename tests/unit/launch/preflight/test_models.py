"""Model folders that are not what a role needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.models import RewardModel
from distft.launch.preflight import models as model_checks
from distft.launch.preflight.hub import OFFLINE
from distft.launch.preflight.models import (
    check_folder,
    check_head,
    check_models,
    check_same_tokenizer,
    unmerged_adapter,
)
from distft.planning.weight_files import tensor_shapes
from tests.unit.launch.examples import from_folder, model_folder, recipe, write_safetensors


def test_a_whole_folder_passes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", head=(1, 8))
    check_folder(folder, "models.reward.path")
    check_head(folder, RewardModel(path=str(folder)))
    assert tensor_shapes(folder) == {"model.embed_tokens.weight": (8, 8), "score.weight": (1, 8)}


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _torn(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _too_many_tokens(folder: Path) -> None:
    vocabulary = {f"t{number}": number for number in range(9)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))


def _quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (_without("config.json"), "has no config.json"),
        (_without("model.safetensors"), "has no weights"),
        (_without("tokenizer.json"), "has no tokenizer"),
        (_quantized, r"that gptq has quantized\n.*take the original weights; models.policy.quantization.method=nf4"),
        (_adapter, r"is an adapter, not a whole model\n.*merge it"),
        (_too_many_tokens, "has 9 tokens, the model's embedding only 8 rows"),
        (_missing_shard, "names model-00001-of-00002.safetensors, which is not there .2 of 2 missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "is not a tokenizer"),
    ],
)
def test_broken_folders(breaks: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    breaks(folder)
    with pytest.raises(UserError, match=said):
        check_folder(folder, "models.policy.path")


def test_the_base_of_what_cannot_be_merged_is_no_start(tmp_path: Path) -> None:
    """Its weights know nothing of it; those of other adapters are merged."""
    folder = model_folder(tmp_path / "m")
    (folder / "adapter").mkdir()
    for kind, refused in (("PROMPT_TUNING", True), ("DISTFT_NETWORK", True), ("LORA", False)):
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
        assert unmerged_adapter(folder) == (str(folder / "adapter") if refused else None)
        started = from_folder("sft", folder)
        with (
            pytest.raises(UserError, match="is the base of an adapter that cannot be merged")
            if refused
            else nullcontext()
        ):
            list(check_models(started))


def test_torn_weights_are_seen_by_their_header(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", head=(1, 8))
    _torn(folder)
    with pytest.raises(UserError, match="is no whole safetensors file"):
        check_folder(folder, "models.reward.path")


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 8, b"\x04\0\0\0\0\0\0\0oops", b"\x02\0\0\0\0\0\0\0[]"])
def test_files_that_are_no_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: is no whole safetensors file"):
        tensor_shapes(tmp_path)


def test_headers_are_read_as_safetensors_writes_them(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((2, 3)), "b": np.zeros(5, "float16")}, tmp_path / "x.safetensors")
    assert tensor_shapes(tmp_path) == {"a": (2, 3), "b": (5,)}


def test_sharded_weights_are_read_through_their_index(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    write_safetensors(folder / "two.safetensors", {"score.weight": (1, 8)})
    write_safetensors(folder / "stray.safetensors", {"stray": (1,)})
    index = {"weight_map": {"model.embed_tokens.weight": "one.safetensors", "score.weight": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(tensor_shapes(folder)) == {"model.embed_tokens.weight", "score.weight"}
    check_head(folder, RewardModel(path=str(folder)))


def test_reward_model_without_a_head_names_file_and_key(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    models = {role: {"path": str(folder)} for role in ("policy", "reward")}
    with pytest.raises(UserError, match=r"model\.safetensors holds no scalar head \(score\.weight\)") as caught:
        list(check_models(recipe("ppo", {"models": models})))
    assert caught.value.where == "models.reward.path"


def test_a_process_reward_model_scores_no_answers(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", head=(1, 8))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "right_step"}}))
    for model in (RewardModel(path=str(folder)), RewardModel(path=str(folder), label="right_step")):
        with pytest.raises(UserError, match="process reward model: it judges ") as caught:
            check_head(folder, model)
        assert caught.value.where == "models.reward.path"


def test_a_model_that_is_trained_into_a_reward_model_needs_no_head(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    assert list(check_models(recipe("reward", {"models": {"reward": {"path": str(folder)}}}))) == []


def test_classifier_needs_a_label_and_a_known_one(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", head=(2, 8))
    with pytest.raises(UserError, match="has 2 outputs") as caught:
        check_head(folder, RewardModel(path=str(folder)))
    assert "LABEL_0, LABEL_1" in caught.value.hint
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "nothate", "1": "hate"}}))
    with pytest.raises(UserError, match="has 2 outputs") as caught:
        check_head(folder, RewardModel(path=str(folder)))
    assert "hate, nothate" in caught.value.hint
    with pytest.raises(UserError, match="has no label nothat") as caught:
        check_head(folder, RewardModel(path=str(folder), label="nothat"))
    assert "nothate" in caught.value.hint
    check_head(folder, RewardModel(path=str(folder), label="nothate"))


def test_the_adapter_beside_a_result_names_the_result(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "final")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=f"did you mean {folder}"):
        check_folder(folder / "adapter", "models.policy.path")


def test_reference_and_value_model_share_the_policys_tokenizer(tmp_path: Path) -> None:
    one = model_folder(tmp_path / "one", head=(1, 8))
    same = model_folder(tmp_path / "same")
    (same / "tokenizer.json").write_text(json.dumps(json.loads((same / "tokenizer.json").read_text()), indent=2))
    other = model_folder(tmp_path / "other", tokens=("a", "c", "b"))
    check_same_tokenizer(one, same, "reference")
    with pytest.raises(UserError, match="'b' is 2 here and 1 there") as caught:
        check_same_tokenizer(one, other, "reference")
    assert caught.value.where == "models.reference.path"
    models = {"policy": {"path": str(one)}, "reference": {"path": str(other), "differs": True}}
    with pytest.raises(UserError, match="is not the policy's"):
        list(check_models(recipe("dpo", {"models": models})))
    models["policy"]["extend_vocabulary"] = ["d"]  # whether they agree is seen when both have been extended
    assert list(check_models(recipe("dpo", {"models": models}))) == []
    models = {"policy": {"path": str(one)}, "reward": {"path": str(one)}, "value": {"path": str(other)}}
    with pytest.raises(UserError, match="is not the policy's") as caught:
        list(check_models(recipe("ppo", {"models": models})))
    assert caught.value.where == "models.value.path"


def test_a_reward_model_may_have_another_tokenizer_and_the_value_model_then_does_not_start_from_it(
    tmp_path: Path,
) -> None:
    policy, reward = model_folder(tmp_path / "p"), model_folder(tmp_path / "r", tokens=("a", "c", "b"), head=(1, 8))
    models = {"policy": {"path": str(policy)}, "reward": {"path": str(reward)}}
    assert list(check_models(recipe("ppo", {"models": models}))) == []


def test_an_added_token_may_lie_beyond_the_embedding(tmp_path: Path) -> None:
    """Whether some text has it is seen when the rows are encoded."""
    folder = model_folder(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [{"content": "<image_soft_token>", "id": 8}]
    for vocabulary in (content["model"]["vocab"], content["model"]["vocab"] | {"<image_soft_token>": 8}):
        content["model"]["vocab"] = vocabulary
        (folder / "tokenizer.json").write_text(json.dumps(content))
        check_folder(folder, "models.policy.path")


def test_stop_tokens_are_tokens(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", tokens=("hello", "<|im_end|>"))
    models = {"policy": {"path": str(folder), "stop_tokens": ["<|im_end|>"]}}
    assert list(check_models(recipe("sft", {"models": models}))) == []
    new = {"path": str(folder), "stop_tokens": ["<|stop|>"], "extend_vocabulary": ["<|stop|>"]}
    assert list(check_models(recipe("sft", {"models": {"policy": new}}))) == [], "nor must it be one yet"
    models["policy"]["stop_tokens"] = ["<|im_ende|>"]
    with pytest.raises(UserError, match="is no token of the policy's tokenizer") as caught:
        list(check_models(recipe("sft", {"models": models})))
    assert caught.value.where == "models.policy.stop_tokens"
    assert caught.value.hint == "did you mean <|im_end|>?"


def test_missing_folders_name_the_nearest(tmp_path: Path) -> None:
    model_folder(tmp_path / "my-model")
    with pytest.raises(UserError, match="there is no folder") as caught:
        list(check_models(recipe("sft", {"models": {"policy": {"path": str(tmp_path / "my-modle")}}})))
    assert "my-model?" in caught.value.hint
    path = str(tmp_path / "my-model" / "config.json")
    with pytest.raises(UserError, match="is a file, not a model folder"):
        list(check_models(recipe("sft", {"models": {"policy": {"path": path}}})))
    inside = tmp_path / "my-model" / "nested"
    (tmp_path / "my-model").rename(tmp_path / "nested")
    (tmp_path / "my-model").mkdir()
    (tmp_path / "nested").rename(inside)
    with pytest.raises(UserError, match=r"has no config\.json") as caught:
        check_folder(tmp_path / "my-model", "models.policy.path")
    assert str(inside) in caught.value.hint


def test_hub_names_are_asked_for_online_and_fail_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    asked = recipe("sft", {"models": {"policy": {"path": "someone/some-model"}}})
    monkeypatch.setattr(model_checks, "check_on_hub", lambda kind, name, **_: f"asked for the {kind} {name}")
    assert list(check_models(asked)) == ["models.policy.path: asked for the model someone/some-model"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="the hub is switched off"):
        list(check_models(asked))


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "a shard"])
def test_what_is_not_whole_in_the_hub_cache_will_be_fetched(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run asks for config and tokenizer alone, a download may be cut off: no reason to refuse the name."""
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    snapshot = model_folder(tmp_path / "models--someone--some-model" / "snapshots" / "abc")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    asked = recipe("sft", {"models": {"policy": {"path": "someone/some-model"}}})
    monkeypatch.setattr(model_checks, "check_on_hub", lambda kind, name, **_: f"asked for the {kind} {name}")
    assert list(check_models(asked)) == []
    _missing_shard(snapshot) if missing == "a shard" else _without(missing)(snapshot)
    assert list(check_models(asked)) == ["models.policy.path: asked for the model someone/some-model"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="is not whole in the hub cache") as caught:
        list(check_models(asked))
    assert "hf download someone/some-model" in caught.value.hint


def test_an_owner_left_out_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="nor a hub name, which has an owner") as caught:
        list(check_models(recipe("sft", {"models": {"policy": {"path": "Qwen2.5-0.5B"}}})))
    assert caught.value.hint == "did you mean Qwen/Qwen2.5-0.5B?"


def test_run_paths_without_a_result_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not exist") as caught:
        list(check_models(recipe("sft", {"models": {"policy": {"path": "run:runs/sft-tiny"}}})))
    assert "distft train sft-tiny" in caught.value.hint
