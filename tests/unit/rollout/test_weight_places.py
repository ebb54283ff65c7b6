"""Tensors written where a model keeps them, as a small engine keeps them: joined, packed, with rows to spare."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from distft.rollout.weight_places import Places, Search

JOINED = {"qkv": ("q", "k", "v")}
Loaded = tuple[nn.Module, dict[str, Tensor], Places | None]


class Packing(nn.Module):
    """A linear layer that keeps its matrix elsewhere, turned."""

    def __init__(self, rows: int, columns: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns), requires_grad=False)
        if bias:
            self.bias = nn.Parameter(torch.zeros(rows), requires_grad=False)

    def pack(self) -> None:
        self.packed = self.weight.t().clone()
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def engine() -> nn.ModuleDict:
    """Two layers, and an embedding of 6 words with 8 rows, which is not packed."""
    layers = [nn.ModuleDict({"qkv": Packing(8, 4, bias=True), "o": Packing(4, 4), "norm": nn.LayerNorm(4, bias=False)})
              for _ in range(2)]  # fmt: skip
    model = nn.ModuleDict({"layers": nn.ModuleList(layers), "embedding": nn.Embedding(8, 4)})
    return model.requires_grad_(requires_grad=False)


def tensors(seed: int, **more: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    found: dict[str, Tensor] = {"embedding.weight": torch.randn(6, 4)}
    for layer in ("layers.0.", "layers.1."):
        for part, rows in (("q", 4), ("k", 2), ("v", 2)):
            found |= {f"{layer}{part}.weight": torch.randn(rows, 4), f"{layer}{part}.bias": torch.randn(rows)}
        found |= {f"{layer}o.weight": torch.randn(4, 4), f"{layer}norm.weight": torch.randn(4)}
    return found | more


def joined(came: Mapping[str, Tensor], name: str) -> Tensor:
    """What a parameter of the engine is made of."""
    path, _, attribute = name.rpartition(".")
    above, _, last = path.rpartition(".")
    whole = torch.cat([came[".".join(filter(None, (above, part, attribute)))] for part in JOINED.get(last, (last,))])
    return torch.cat([whole, torch.zeros(2, 4)]) if name == "embedding.weight" else whole


def pack(module: nn.Module) -> None:
    if isinstance(module, Packing):
        module.pack()


def loaded(made_of: Callable[[Mapping[str, Tensor], str], Tensor] = joined) -> Loaded:
    """An engine that has loaded its first weights in its own way, and where they were found."""
    model, came = engine(), tensors(0)
    search = Search(model, JOINED)
    assert search.names() == set(came)
    came = dict(search.passing(came.items()))
    for name, parameter in model.named_parameters():
        parameter.data.copy_(made_of(came, name))
    for module in model.modules():
        if isinstance(module, Packing):
            search.look(module)
            module.pack()
    return model, came, search.places()


def test_later_weights_are_where_the_engine_would_have_put_them() -> None:
    model, _, places = loaded()
    assert places is not None
    later = tensors(1)
    assert places.write(later.items(), pack) == set()
    for path, module in model.named_modules():
        if isinstance(module, Packing):
            assert torch.equal(module.packed.t(), joined(later, f"{path}.weight"))
            assert not module.weight.numel()
    kept = {name: parameter for name, parameter in model.named_parameters() if parameter.numel()}
    assert len(kept) == 2 + 2 + 1  # biases, norms, embedding
    assert all(torch.equal(parameter, joined(later, name)) for name, parameter in kept.items())


def test_a_tensor_may_change_as_soon_as_the_next_is_asked_for() -> None:
    model, _, places = loaded()
    assert places is not None
    later = tensors(1)
    slot = torch.empty(64)

    def passing() -> object:
        for name, tensor in later.items():
            there = slot[: tensor.numel()].view(tensor.shape)
            there.copy_(tensor)
            yield name, there
            slot.fill_(torch.nan)

    places.write(passing(), pack)  # type: ignore[arg-type]
    assert torch.equal(model["layers"][1]["qkv"].packed.t(), joined(later, "layers.1.qkv.weight"))


def test_what_does_not_come_is_named_and_its_layer_is_not_packed() -> None:
    model, first, places = loaded()
    assert places is not None
    later = tensors(1)
    del later["layers.1.k.weight"]
    assert places.write(later.items(), pack) == {"layers.1.k.weight"}
    assert torch.equal(model["layers"][1]["qkv"].packed.t(), joined(first, "layers.1.qkv.weight"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layers.0.extra": torch.zeros(1)}, "no place for layers.0.extra"),
        ({"layers.0.o.weight": torch.zeros(1, 4)}, r"layers.0.o.weight is \(1, 4\), not \(4, 4\)"),
    ],
)
def test_what_fits_nowhere_is_refused(wrong: dict[str, Tensor], said: str) -> None:
    places = loaded()[2]
    assert places is not None
    with pytest.raises(ValueError, match=said):
        places.write(tensors(1, **wrong).items(), pack)


def turned(came: Mapping[str, Tensor], name: str) -> Tensor:
    return joined(came, name).flip(0) if name == "layers.1.qkv.weight" else joined(came, name)


def scaled(came: Mapping[str, Tensor], name: str) -> Tensor:
    return joined(came, name) * (1.5 if name == "layers.0.norm.weight" else 1)


def padded(came: Mapping[str, Tensor], name: str) -> Tensor:
    return torch.cat([joined(came, name)[:7], torch.ones(1, 4)]) if name == "embedding.weight" else joined(came, name)


@pytest.mark.parametrize("made_of", [turned, scaled, padded])
def test_an_engine_that_keeps_something_else_is_not_written_to(
    made_of: Callable[[Mapping[str, Tensor], str], Tensor],
) -> None:
    assert loaded(made_of)[2] is None
