"""Where an inference engine keeps the tensors of a policy, so that a sync writes them there and does nothing else.

Engines join matrices (queries, keys and values in one) and pack some for the processor, which leaves their parameters
empty. Which tensors a parameter is made of is guessed by the names, and proved while the engine loads them in its own
way: before it is packed, each parameter is compared, bit by bit, with what it should be made of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

Joined: TypeAlias = Mapping[str, Sequence[str]]  # of a module's last name those of the modules that it stands for


@dataclass(frozen=True, eq=False)
class _Made:
    """The parameter ``attribute`` of ``module``: the rows of tensors (``rows``, by their names), and zeros below.
    ``packed``: it is empty but while the module packs it."""

    module: nn.Module
    attribute: str
    rows: Mapping[str, slice]
    shape: torch.Size
    dtype: torch.dtype
    packed: bool


class Places:
    """Where every tensor belongs."""

    def __init__(self, made: Iterable[_Made]) -> None:
        self._made = list(made)

    def write(self, tensors: Iterable[tuple[str, Tensor]], settle: Callable[[nn.Module], None]) -> set[str]:
        """Copies each tensor to its place, and calls ``settle`` with every module that has got all of its own: what it
        packs is whole for that time. Returns the names that did not come.

        A tensor is read before the next one is asked for. Raises ValueError for one that fits nowhere.
        """
        places = {name: made for made in self._made for name in made.rows}
        missing: dict[nn.Module, int] = defaultdict(int)
        for made in self._made:
            missing[made.module] += len(made.rows)
        whole: dict[nn.Module, dict[str, Tensor]] = defaultdict(dict)
        spare: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = defaultdict(list)  # new memory costs as much again
        for name, tensor in tensors:
            if (place := places.pop(name, None)) is None:
                raise ValueError(f"weight sync: the generator has no place for {name}")
            module, kind = place.module, (place.shape, place.dtype)
            target = module.get_parameter(place.attribute).data
            if place.packed and place.attribute in whole[module]:
                target = whole[module][place.attribute]
            elif place.packed:
                target = spare[kind].pop() if spare[kind] else target.new_empty(place.shape, dtype=place.dtype)
                target[max(rows.stop for rows in place.rows.values()) :] = 0
                whole[module][place.attribute] = target
            rows = target[place.rows[name]]
            if rows.shape != tensor.shape:  # copy_ would broadcast
                raise ValueError(f"weight sync: {name} is {tuple(tensor.shape)}, not {tuple(rows.shape)}")
            rows.copy_(tensor)
            missing[module] -= 1
            if not missing[module]:
                with _unpacked(module, complete := whole.pop(module, {})):
                    settle(module)
                for matrix in complete.values():
                    spare[matrix.shape, matrix.dtype].append(matrix)
        return set(places)


class Search:
    """Looks for the places of tensors while an engine loads them into ``model``: ``passing`` on the way there, and
    ``look`` at each module before it packs what it got."""

    def __init__(self, model: nn.Module, joined: Joined) -> None:
        self._model = model
        self._paths = {module: path for path, module in model.named_modules()}
        self._joined = joined
        self._came: dict[str, Tensor] = {}
        self._found: dict[tuple[nn.Module, str], _Made] = {}

    def names(self) -> set[str]:
        """The tensors that the model's parameters are made of, if the guess is right."""
        parameters = (name.rpartition(".") for name, _ in self._model.named_parameters())
        return {name for path, _, attribute in parameters for name in self._guess(path, attribute)}

    def passing(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The same ``tensors``, which are remembered until they are found in a parameter."""
        for name, tensor in tensors:
            self._came[name] = tensor
            yield name, tensor

    def look(self, module: nn.Module) -> None:
        """Compares the parameters that are ``module``'s own with what came for them."""
        path = self._paths[module]
        for attribute, parameter in module._parameters.items():
            names = self._guess(path, attribute)
            if parameter is None or not self._came.keys() >= set(names):
                continue
            if rows := _rows(parameter.data, {name: self._came[name] for name in names}):
                shape, dtype = parameter.shape, parameter.dtype
                self._found[module, attribute] = _Made(module, attribute, rows, shape, dtype, packed=False)
                for name in names:
                    del self._came[name]

    def places(self) -> Places | None:
        """When all is loaded. None where some parameter is made in a way that was not guessed."""
        made = []
        for name, parameter in self._model.named_parameters():
            path, _, attribute = name.rpartition(".")
            module = self._model.get_submodule(path)
            if (module, attribute) not in self._found:
                self.look(module)
            if (found := self._found.get((module, attribute))) is None:
                return None
            if parameter.shape != found.shape:
                if parameter.numel():
                    return None
                found = replace(found, packed=True)
            made.append(found)
        return Places(made)

    def _guess(self, path: str, attribute: str) -> list[str]:
        above, _, last = path.rpartition(".")
        parts = self._joined.get(last, (last,))
        return [".".join(filter(None, (above, part, attribute))) for part in parts]


def _rows(parameter: Tensor, parts: Mapping[str, Tensor]) -> dict[str, slice]:
    """Of each of ``parts`` its rows, where ``parameter`` is made of them and of zeros; else nothing."""
    rows, end = dict[str, slice](), 0
    for name, part in parts.items():
        if not part.dim() or parameter.shape[1:] != part.shape[1:]:
            return {}
        rows[name] = slice(end, end := end + len(part))
        if not torch.equal(parameter[rows[name]], part.to(parameter.device, parameter.dtype)):
            return {}
    return {} if parameter[end:].any() else rows


@contextmanager
def _unpacked(module: nn.Module, whole: Mapping[str, Tensor]) -> Iterator[None]:
    packed = {attribute: module._parameters[attribute] for attribute in whole}
    module._parameters.update(
        {attribute: nn.Parameter(tensor, requires_grad=False) for attribute, tensor in whole.items()}
    )
    try:
        yield
    finally:
        module._parameters.update(packed)
