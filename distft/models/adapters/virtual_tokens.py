"""Virtual tokens of a model: ``virtual_tokens.prompt_embeddings``, and an encoder where those are computed by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distft.common.files import parse_json
from distft.config.adapters.virtual_tokens import OF_MODEL, VirtualTokens
from distft.models.adapters.kind import Kind
from distft.models.adapters.layers import ADAPTER, drawing, drawn_on
from distft.planning.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS

MARK: Final = "prompt_embeddings"
_EMBEDDINGS: Final = f"{OF_MODEL}.{MARK}"
_ENCODER: Final = f"{OF_MODEL}.encoder"
_LAYERS: Final = (0, 2, 4)  # an activation between them
SUFFIXES: Final = (
    f".{_EMBEDDINGS}", *(f".{_ENCODER}.{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")),
)  # fmt: skip
_ACTIVATIONS: Final = {"relu": nn.ReLU, "tanh": nn.Tanh}


class BeforeSequences(nn.Module):
    """``start [num, width]``, or what ``encoder`` makes of it, is the same before every sequence."""

    def __init__(self, start: Tensor, encoder: nn.Sequential | None = None) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Parameter(start)
        self.encoder = encoder
        self.number = len(start)
        self.enabled = True

    def forward(self, rows: int) -> Tensor:
        """``[rows, num, ...]``."""
        found = self.prompt_embeddings if self.encoder is None else self.encoder(self.prompt_embeddings)
        return found.expand(rows, -1, -1)

    def enable_adapters(self, *, enabled: bool) -> None:
        """Off, the model computes what it did without."""
        self.enabled = enabled


def num_virtual_tokens(model: Any) -> int:
    """How many stand before each of the model's sequences."""
    found: BeforeSequences | None = getattr(model, OF_MODEL, None)
    return 0 if found is None else found.number


def drawn(model: Any, adapter: VirtualTokens, seed: int) -> tuple[Tensor, nn.Sequential | None]:
    """Normally distributed embeddings, as PEFT draws them, and the encoder that the adapter says, as torch does."""
    shapes = adapter.parameters(*widths(model))
    linear = [shape for name, shape in shapes.items() if name.endswith(".weight")]
    with drawing(seed), drawn_on(model.device):
        start = torch.randn(*shapes[MARK])
        layers: list[nn.Module] = []
        for outer, inner in linear:
            layers += [nn.Linear(inner, outer), _ACTIVATIONS[adapter.activation]()]
    return start.to(model.device), nn.Sequential(*layers[:-1]).to(model.device) if layers else None


def widths(model: Any) -> tuple[int, int, int]:
    """Of the hidden states, of the keys of all heads, and how many layers there are."""
    config = model.config.get_text_config()
    heads, size = key_heads(model)
    return config.hidden_size, heads * size, config.num_hidden_layers


def key_heads(model: Any) -> tuple[int, int]:
    """How many heads have keys, and how wide those are."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, size


def in_files(model: Any, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``trained`` with what an encoder makes of the embeddings in the place of both, as PEFT keeps it."""
    found = {name: tensor for name, tensor in trained.items() if not name.startswith(_ENCODER)}
    tokens: BeforeSequences | None = getattr(model, OF_MODEL, None)
    if tokens is None or tokens.encoder is None:
        return found
    made = trained[_EMBEDDINGS]
    for number, layer in enumerate(tokens.encoder):
        if isinstance(layer, nn.Linear):  # its own weight may be a shard
            told = (trained[f"{_ENCODER}.{number}.{part}"] for part in ("weight", "bias"))
            made = nn.functional.linear(made, *told)
        else:
            made = torch.tanh(made) if isinstance(layer, nn.Tanh) else torch.relu(made)
    return found | {_EMBEDDINGS: made}


def kept_in(folder: str) -> Tensor:
    """The virtual tokens that lie in a folder of PEFT's, which keeps as many again for an encoder-decoder's decoder and
    reads those nowhere. Raises KeyError where it holds none."""
    kept = load_file(Path(folder) / ADAPTER_WEIGHTS)[MARK]
    said = parse_json((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return kept[: said["num_virtual_tokens"]]


def say_to_peft(model: Any, config: Any) -> None:
    """``config`` is PEFT's of the model's adapter."""
    model.peft_config = {ADAPTER: config}


def _saved_name(_name: str) -> str:
    """Without the model, which has one of them."""
    return MARK


KIND: Final = Kind(MARK, SUFFIXES, _saved_name)
