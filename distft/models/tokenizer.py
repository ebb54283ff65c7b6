"""The tokenizer of a model folder or hub name, without the model's code where that can be.

``AutoTokenizer`` imports the code of all models, and the compiler that those use: 6 s of a core, where a data worker
needs neither. Most folders name the class that reads any ``tokenizer.json``; that one imports not even torch.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distft.common.errors import UserError
from distft.common.files import parse_json
from distft.data.chat_templates import fitted, resolve_template
from distft.data.reading_marks import mark_apart, mark_both_ways
from distft.models.limits import is_apart, is_encoder
from distft.models.unreadable import first_line, hint
from distft.planning.model_folders import local_folder
from distft.planning.weight_files import COPY_AGAIN

# The class of any tokenizer.json, by its names in transformers 5 and 4.
_GENERAL = ("TokenizersBackend", "PreTrainedTokenizerFast")
# transformers' own list of model types whose folders name a class that is not theirs.
_MISNAMED = "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS"


def load_tokenizer(path: str, *, trust_remote_code: bool = False, chat_template: str | None = None) -> Any:
    """The tokenizer that lies with a model; a missing pad token becomes the end-of-sequence token.

    ``chat_template`` takes the place of its own: see ``resolve_template``. Raises UserError when there is no tokenizer
    or no such template.
    """
    try:
        tokenizer = _read(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # of a damaged file the libraries raise whatever they come across
        raise _unreadable(path, error) from error
    if is_apart(path, trust_remote_code=trust_remote_code):
        mark_apart(tokenizer)
    if is_encoder(path, trust_remote_code=trust_remote_code):
        mark_both_ways(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template is not None:
        tokenizer.chat_template = fitted(resolve_template(chat_template), tokenizer)
    return tokenizer


def num_tokens(tokenizer: Any) -> int:
    """One more than the highest number of a token: what a head must have rows for."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _read(path: str, *, trust_remote_code: bool) -> Any:
    if is_general(local_folder(path)):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(path)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def is_general(folder: Path | None) -> bool:
    """Whether ``AutoTokenizer`` would take the class of any ``tokenizer.json``: the folder names it, brings no code of
    its own, and transformers does not know better."""
    if folder is None or not (folder / "tokenizer.json").is_file() or (folder / "tekken.json").exists():
        return False
    tokenizer, model = (_fields(folder / name) for name in ("tokenizer_config.json", "config.json"))
    named = tokenizer.get("tokenizer_class") in _GENERAL and "auto_map" not in tokenizer
    family, misnamed = model.get("model_type"), _misnamed()
    return named and bool(family) and bool(misnamed) and not {family, model.get("model_name")} & misnamed


def _unreadable(path: str, error: Exception) -> UserError:
    """Of a folder here whose tokenizer files are no JSON objects, which one it is."""
    folder = local_folder(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if folder is not None and (folder / name).is_file() and not _fields(folder / name):
            return UserError("is not a tokenizer", where=str(folder / name), hint=COPY_AGAIN)
    said = first_line(error) if isinstance(error, OSError | ValueError) else repr(error)
    return UserError(f"no tokenizer can be read there: {said}", where=path, hint=hint(error))


def _fields(file: Path) -> dict[str, Any]:
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # AutoTokenizer says what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}


@cache
def _misnamed() -> frozenset[str]:
    """Read, not imported: the file that has the list imports what is to be left out. Empty where there is none."""
    found = find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent / "models" / "auto" / "tokenization_auto.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == _MISNAMED:
            assert node.value is not None
            return frozenset(ast.literal_eval(node.value))
    return frozenset()
