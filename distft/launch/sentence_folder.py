"""What ``sentence-transformers`` wants to find beside a model of texts: how its states become a vector.

    modules.json -> the folder itself (transformers) -> 1_Pooling -> 2_Normalize

Its documented layout ("Creating custom models"), which its releases 2 to 5 read. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from distft.common.files import write_json
from distft.config.recipe import Recipe
from distft.planning.model_folders import read_config

MODULES: Final = "modules.json"
_TYPES: Final = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
_MODES: Final = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
_OTHERS: Final = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")


def write_sentence_folder(recipe: Recipe, folder: Path) -> None:
    """Of a run whose model embeds texts; of others nothing. Raises OSError."""
    pooling = recipe.algorithm.pools()
    if pooling is None:
        return
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(_TYPES)
    ]
    write_json(folder / MODULES, modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": recipe.data.max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    said: dict[str, Any] = {"word_embedding_dimension": read_config(folder)["hidden_size"]}
    said |= {f"pooling_mode_{mode}": name == pooling for name, mode in _MODES.items()}
    said |= dict.fromkeys((f"pooling_mode_{mode}" for mode in _OTHERS), False) | {"include_prompt": True}
    for path, _ in _TYPES[1:]:
        (folder / path).mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", said)
