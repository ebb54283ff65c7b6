"""A model folder before it is loaded: is it whole, has it the head that its role needs, do tokenizers agree?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distft.common.errors import UserError, nearest
from distft.config.load import resolve_path
from distft.config.models import RewardModel
from distft.config.recipe import Recipe
from distft.config.roles import is_rl, model_of, roles
from distft.data.chat_templates import resolve_template
from distft.planning.model_sizes import local_folder, read_config
from distft.planning.weight_files import COPY_AGAIN, tensor_shapes, weight_files

# One of these holds a tokenizer's vocabulary.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model",
)  # fmt: skip
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# What the scalar head of AutoModelForSequenceClassification is called, by architecture.
HEAD_KEYS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")


def check_models(recipe: Recipe) -> Iterator[str]:
    """Every model that has a path. Yields warnings.

    Raises UserError for missing or incomplete folders, a reward model without a head, tokenizers of policy
    and reference that differ.
    """
    folders: dict[str, Path] = {}
    for role in roles(recipe):
        model = model_of(recipe, role)
        if model.chat_template is not None:
            resolve_template(model.chat_template, f"models.{role}.chat_template")
        if model.init is not None:
            resolve_template(model.init.tokenizer.chat_template, f"models.{role}.init.tokenizer.chat_template")
        if model.path is None:
            continue
        path = resolve_path(model.path)
        folder = local_folder(path)
        if folder is None:
            yield _not_here(path, role)
            continue
        if folder not in folders.values():
            check_folder(folder, role)
        folders[role] = folder
    if is_rl(recipe) and "reward" in folders:
        check_head(folders["reward"], model_of(recipe, "reward"))
    if "reference" in folders and "policy" in folders:
        check_same_tokenizer(folders["policy"], folders["reference"])


def check_folder(folder: Path, role: str) -> None:
    """config.json, weights and a tokenizer are there, and fit together. Raises UserError."""
    where = f"models.{role}.path"
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        merged = (folder.parent / "config.json").is_file()
        raise UserError(
            f"{folder} is an adapter, not a whole model",
            where=where,
            hint=f"did you mean {folder.parent}?" if merged else "merge it into its base first",
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config.json: it is not a model folder",
            where=where,
            hint=_inside(folder) or "give a model folder, a hub name, or run:<output_dir>",
        )
    config = read_config(folder)
    if quantized := config.get("quantization_config"):
        raise UserError(
            f"{folder} holds weights that {quantized.get('quant_method', 'something')} has quantized",
            where=where,
            hint=f"take the original weights; models.{role}.quantization.method=nf4 loads them in four bits",
        )
    if not tensor_shapes(folder) and not any(folder.glob("pytorch_model*.bin")):
        what = f"{folder} has no weights (*.safetensors)"
        raise UserError(what, where=where, hint=_inside(folder) or COPY_AGAIN)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}, ...)",
            where=where,
            hint="copy the tokenizer's files of the model that it was trained from",
        )
    tokens, rows = len(_vocabulary(folder)), int(config.get("vocab_size") or 0)
    if rows and tokens > rows:
        raise UserError(
            f"the tokenizer in {folder} has {tokens} tokens, the model's embedding only {rows} rows",
            where=where,
            hint="this tokenizer belongs to another model",
        )


def check_head(folder: Path, model: Any) -> None:
    """A reward model's weights hold a scalar head, read from the files' headers. Raises UserError."""
    shapes = tensor_shapes(folder)
    if not shapes:
        return
    found = [name for name in shapes if name.endswith(HEAD_KEYS) and not name.startswith("lm_head")]
    if not found:
        raise UserError(
            f"{weight_files(folder)[0]} holds no scalar head ({HEAD_KEYS[0]}): it is not a reward model",
            where="models.reward.path",
            hint="train one with a `reward` recipe, or name a reward model",
        )
    outputs = shapes[found[0]][0]
    if outputs == 1 or not isinstance(model, RewardModel):
        return
    labels = sorted(str(label) for label in dict(read_config(folder).get("id2label") or {}).values())
    if model.label is None:
        listed = f": one of {', '.join(labels)}" if labels else ""
        raise UserError(
            f"{folder} has {outputs} outputs ({found[0]}), a reward is one",
            where="models.reward.label",
            hint=f"name the label that is rewarded{listed}",
        )
    if labels and model.label not in labels:
        close = nearest(model.label, labels)
        raise UserError(
            f"{folder} has no label {model.label}",
            where="models.reward.label",
            hint=f"did you mean {close}?" if close else f"one of: {', '.join(labels)}",
        )


def check_same_tokenizer(policy: Path, reference: Path) -> None:
    """Policy and reference give the same numbers to the same tokens. Raises UserError.

    Without it every log-probability of the reference would be of another text.
    """
    if _same_file(policy / "tokenizer.json", reference / "tokenizer.json"):
        return
    ours, theirs = _vocabulary(policy), _vocabulary(reference)
    if not ours or not theirs or ours == theirs:
        return
    different = next((token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)), "")
    raise UserError(
        f"its tokenizer is not the policy's: {len(theirs)} tokens in {reference}, {len(ours)} in {policy}; "
        f"{different!r} is {theirs.get(different)} there and {ours.get(different)} here",
        where="models.reference.path",
        hint="the reference must share the policy's tokenizer; by default it is the policy's start",
    )


def _not_here(path: str, role: str) -> str:
    """The warning for a hub name that is not in the cache. Raises UserError for what can only be a folder."""
    folder = Path(path).expanduser()
    where = f"models.{role}.path"
    offline = any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)
    local = path.startswith((".", "/", "~")) or len(folder.parts) > 2
    siblings = [entry.name for entry in folder.parent.glob("*/")] if folder.parent.is_dir() else []
    close = nearest(folder.name, siblings)
    hint = f"did you mean {folder.parent / close}?" if close else "give a folder, a hub name, or run:<output_dir>"
    if folder.is_file():
        raise UserError(f"{path} is a file, not a model folder", where=where, hint=f"did you mean {folder.parent}?")
    if local:
        raise UserError(f"there is no folder {path}", where=where, hint=hint)
    if offline:
        what = f"{path} is neither a folder here nor in the hub cache, and the hub is switched off (HF_HUB_OFFLINE)"
        raise UserError(what, where=where, hint=hint)
    return f"models.{role}: {path} is not on this machine and will be fetched from the hub"


def _inside(folder: Path) -> str:
    """Where the model may have been meant to be: one level further down."""
    deeper = sorted(path.parent for path in folder.glob("*/config.json"))
    return f"did you mean {deeper[0]}?" if deeper else ""


def _same_file(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file():
        return False
    return hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token to number by the folder's tokenizer.json, added tokens included; empty where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score
            vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
        return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"is not a tokenizer: {error!r}", where=str(path), hint=COPY_AGAIN) from error
