"""A model's vocabulary with further tokens: a folder beside the model's own, in which they have rows.

Whoever loads that folder (every rank, the engines that generate, the export) finds an ordinary model: no rank can begin
with other rows than its neighbour. Files of weights that hold neither embedding nor head are links.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.families.family import family_at, find_family
from distft.models.families.table import family_of
from distft.models.limits import embedding_rows
from distft.models.tokenizer import num_tokens
from distft.models.unreadable import first_line, hint
from distft.planning.model_folders import fetched_folder, read_config
from distft.planning.weight_files import weight_files

# Files of a model beside its weights: configs, tokenizers, templates, code.
_SMALL = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")
# Rows that are summed up at a time, in float64.
_CHUNK = 4096


def fetched(path: str, *, weights: bool) -> Path:
    """The folder of the model at that path, from the hub where it is not on this machine; without ``weights`` not its
    weights. Raises UserError where it cannot be had."""
    folder = fetched_folder(path)
    if folder is not None:
        return folder
    wanted = [*_SMALL, *(("*.safetensors",) if weights else ())]
    try:
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise UserError(f"no model can be read there: {first_line(error)}", where=path, hint=hint(error)) from error


def add_tokens(tokenizer: Any, texts: Sequence[str], where: str) -> list[int]:
    """Makes each text one token of the tokenizer, but for those that are one already. Returns the numbers of the new
    ones, in their order. ``where``: the recipe's key, for messages.

    Raises UserError where all are tokens already, and for a text that the tokenizer does not find or give back as it
    stands: byte-level ones take some letters of an added token for bytes.
    """
    known = tokenizer.get_vocab()
    new = [text for text in texts if text not in known and not _is_read_as_one(tokenizer, text)]
    if not new:
        one = f"{texts[0]!r}, is one" if len(texts) == 1 else f"all {len(texts)}, are some"
        raise UserError(f"what is to be a token, {one} already", where=where, hint=f"{where}=null")
    tokenizer.add_tokens(new)
    numbers: list[int] = tokenizer.convert_tokens_to_ids(new)
    for text, number in zip(new, numbers, strict=True):
        found = tokenizer.encode(f"a {text} a", add_special_tokens=False)
        back = tokenizer.decode(found)
        if number not in found or text.strip() not in back:
            alone = tokenizer.decode([number])
            read = f"comes back as {alone!r}" if number in found else f"is read as {len(found) - 2} other tokens"
            raise UserError(
                f"{text!r} {read}: this tokenizer cannot have it as one token",
                where=where,
                hint=f"leave it out, or give it with the space that stands before it: {' ' + text!r}",
            )
    return numbers


def _is_read_as_one(tokenizer: Any, text: str) -> bool:
    """Whether the text is one token, whose name may be another: a byte-level tokenizer writes bytes as letters."""
    found = tokenizer.encode(text, add_special_tokens=False)
    return len(found) == 1 and tokenizer.decode(found) == text


def write_extended(
    folder: Path, tokenizer: Any, numbers: Sequence[int], target: Path, model: Model, *, weights: bool
) -> None:
    """Writes into ``target`` the model in ``folder`` with rows for the tokens of those ``numbers``, which its
    ``tokenizer`` has got. Without ``weights`` config and tokenizer only.

    A new row of the embedding and of the head is the mean of the rows of all tokens there were (Hewitt 2021,
    "Initializing New Word Embeddings for Pretrained Language Models": however wrong a model is of the new tokens, its
    probabilities of the others shrink by little); so is a head's bias. Rows that belonged to no token are no part of
    it. Other rows are copied as they are, and what is tied stays so. Raises UserError where its embedding is not found.
    """
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in _SMALL):
            shutil.copyfile(path, target / path.name)
    tokenizer.save_pretrained(target)
    before = embedding_rows(str(folder), trust_remote_code=model.trust_remote_code)
    assert before is not None, f"{folder} does not say how many tokens it has"
    known = min(before, min(numbers))
    rows = max(before, num_tokens(tokenizer))
    _say_rows(target / "config.json", read_config(folder), rows)
    if not weights:
        return
    embedding, head, across = _names_of_rows(str(folder), model)
    written: set[str] = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            longer = {}
            for name in file.keys():  # noqa: SIM118
                if _is_one(name, (*embedding, *head)):
                    longer[name] = with_rows(file.get_tensor(name), numbers, known, rows)
                elif name in across:
                    longer[name] = with_rows(file.get_tensor(name).T, numbers, known, rows).T.contiguous()
            if not longer:
                (target / path.name).symlink_to(path.resolve())
                continue
            others = {name: file.get_tensor(name) for name in file.keys() if name not in longer}  # noqa: SIM118
            metadata = file.metadata()
        save_file(others | longer, target / path.name, metadata=metadata)
        (target / path.name).chmod((target / "config.json").stat().st_mode)  # safetensors keeps it to the owner
        written |= longer.keys()
    if not any(_is_one(name, embedding) for name in written):
        what = f"none of its weights is called as its embedding is ({embedding[0]})"
        raise UserError(what, where=str(folder), hint="load it with transformers and save it again")


def with_rows(tensor: Tensor, numbers: Sequence[int], known: int, rows: int) -> Tensor:
    """The tensor with ``rows`` rows: those of ``numbers`` the mean of its first ``known``, others as they are, and what
    is neither zero."""
    longer = tensor.new_zeros(rows, *tensor.shape[1:])
    longer[: len(tensor)] = tensor
    total = sum(chunk.double().sum(dim=0) for chunk in torch.split(tensor[:known], _CHUNK))
    assert isinstance(total, Tensor)
    longer[list(numbers)] = (total / known).to(tensor.dtype)
    return longer


def _names_of_rows(path: str, model: Model) -> tuple[list[str], list[str], list[str]]:
    """What of the model at that path has a row for each token: by the names in its class, the embedding's, each side's
    of an encoder-decoder, and the head's; and what has a column for each (BART's bias of logits)."""
    module = find_family(family_at(family_of("policy").name, path, model)).empty(path, model)
    embeddings = [module.get_input_embeddings()]
    if module.config.is_encoder_decoder:
        embeddings += [side.get_input_embeddings() for side in (module.get_encoder(), module.get_decoder())]
    names: tuple[list[str], list[str]] = ([], [])
    for name, part in module.named_modules(remove_duplicate=False):
        for ends, found in zip((embeddings, [module.get_output_embeddings()]), names, strict=True):
            if any(part is end for end in ends):
                found += [f"{name}.{parameter}" for parameter, _ in part.named_parameters(recurse=False)]
    return *names, [name for name, _ in module.named_buffers() if name == "final_logits_bias"]


def _is_one(name: str, names: Sequence[str]) -> bool:
    """Whether a tensor in a file is one of those: saved without its head, a model's names lack their first part."""
    return any(name == one or one.endswith(f".{name}") or name.endswith(f".{one}") for one in names)


def _say_rows(path: Path, config: Mapping[str, Any], rows: int) -> None:
    """Writes the config with that many rows wherever it says how many there are: which place counts its class knows."""
    text = config.get("text_config")
    said: dict[str, Any] = {"text_config": {**text, "vocab_size": rows}} if text else {}
    if "vocab_size" in config or not text:
        said["vocab_size"] = rows
    path.write_text(json.dumps({**config, **said}, indent=2) + "\n", encoding="utf-8")
