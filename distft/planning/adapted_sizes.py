"""How large a model is of which not all is trained: with adapters beside its layers, virtual tokens before its
sequences, or some of its own weights chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from distft.common.errors import UserError, nearest
from distft.planning.architectures import MODULES, Tensors
from distft.planning.model_sizes import SCORE, ModelSizes
from distft.planning.size_sources import tensors_from_shapes

if TYPE_CHECKING:
    from distft.config.adapters.adapter import LayerAdapter
    from distft.config.adapters.selective import OwnWeights
    from distft.config.adapters.virtual_tokens import VirtualTokens


class WrongTargets(UserError):
    """Adapters are asked for in layers that the model does not have, or beside which they cannot lie; ``where``: the
    key of theirs that says so."""


def with_adapters(sizes: ModelSizes, adapter: LayerAdapter) -> ModelSizes:
    """The same model frozen, with adapters beside its linear layers; a scalar head is trained with them.

    Raises WrongTargets for layers that it does not have or that the adapter does not fit, and where the adapter
    does not know those of its family.
    """
    chosen = [one for one in sizes.tensors if one.linear]
    try:
        layers = adapter.layers(sizes.family)
    except LookupError:
        hint = f"name layers: {', '.join(dict.fromkeys(name for one in chosen for name in _modules(sizes, one)))}"
        raise WrongTargets(f"which layers of {sizes.family} it is for is not known", hint=hint) from None
    if layers.named is not None:
        known = dict.fromkeys(name for one in chosen for name in _modules(sizes, one))
        for wanted in layers.named:
            if wanted not in known:
                close = nearest(wanted, known)
                hint = f"did you mean {close}?" if close else f"it has: {', '.join(known)}"
                raise WrongTargets(f"{sizes.family} has no linear layer {wanted}", hint=hint)
        chosen = [one for one in chosen if not set(_modules(sizes, one)).isdisjoint(layers.named)]
    beside, elements, single, passing, held = [], 0, 0, 0, 0
    for one in sorted(chosen, key=lambda one: min(one.shape)):  # so that what is said is of the narrowest
        rows, columns = one.shape
        if wrong := adapter.why_not(rows, columns, sizes.hidden):
            key, what, hint = wrong
            raise WrongTargets(what, where=key, hint=hint)
        of_input = not set(_modules(sizes, one)).isdisjoint(layers.inputs)
        for name, shape in adapter.parameters(rows, columns, of_input=of_input).items():
            beside.append(Tensors(f"{one.name}.{name}", "layers", shape, one.count))
        more, bytes_ = adapter.kept(rows, columns, of_input=of_input)
        elements, single = elements + one.count * more, single + one.count * bytes_
        passing = max(passing, adapter.passing(rows, columns))
        held += one.count * adapter.held(rows, columns)
    return replace(
        sizes,
        tensors=(*_frozen(sizes), *beside),
        kept_by_adapters=(elements, single),
        passing_of_adapters=passing,
        held_by_adapters=held,
    )


def with_virtual_tokens(sizes: ModelSizes, tokens: VirtualTokens) -> ModelSizes:
    """The same model frozen, with what stands before every sequence."""
    shapes = tokens.parameters(sizes.hidden, sizes.kv_heads * sizes.head_dim, sizes.layers)
    before = (Tensors(name, "embedding", shape) for name, shape in shapes.items())
    return replace(sizes, tensors=(*_frozen(sizes), *before))


def with_selected(sizes: ModelSizes, own: OwnWeights, shapes: Mapping[str, tuple[int, ...]]) -> ModelSizes:
    """The same model, of which only the weights that are chosen of those in its files, ``shapes``, are trained, and
    a scalar head. Raises WrongTargets where none is.
    """
    scalar = any(one.name == SCORE for one in sizes.tensors)
    chosen = {name: shape for name, shape in shapes.items() if own.chooses(name)}
    if not chosen:
        raise WrongTargets(
            f"{sizes.family} has no weight that is called {' or '.join(own.train)}",
            hint=f"it has, for example: {', '.join(_kinds_of_names(shapes)[:8])}",
        )
    selected = [one for one in tensors_from_shapes(chosen) if not (scalar and one.block == "head")]
    return replace(sizes, tensors=_frozen(sizes), selected=tuple(selected))


def _frozen(sizes: ModelSizes) -> tuple[Tensors, ...]:
    return tuple(replace(one, trained=one.name == SCORE) for one in sizes.tensors)


def _modules(sizes: ModelSizes, tensors: Tensors) -> tuple[str, ...]:
    """What a linear layer's modules are called: by the family's code, or as the file's own names say."""
    by_family = MODULES.get(sizes.family)
    return by_family[tensors.name] if by_family else (tensors.name.removesuffix(".weight").rpartition(".")[2],)


def _kinds_of_names(names: Iterable[str]) -> list[str]:
    """Patterns that stand for the names, of all layers together."""
    return list(dict.fromkeys(".".join("*" if part.isdigit() else part for part in one.split(".")) for one in names))
