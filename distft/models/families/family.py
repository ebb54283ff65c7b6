"""What every family of models answers, so that nobody else asks which one it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from distft.algorithms.measured import Measure
from distft.config.models import Model
from distft.models.families.table import FAMILIES, FamilyName, family_in
from distft.models.load import load_config

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loaded:
    """``module``: the Hugging Face model as ``module.model``, the config of its files as ``module.written``.
    ``new_head``: the weights that no file had, by name, for the caller to start.
    """

    module: Any
    new_head: Mapping[str, nn.Parameter] = field(default_factory=dict)


@dataclass(frozen=True)
class Arranged:
    """Prompts and responses as a module takes them: ``arrays`` ``[rows, length]`` by the names of its arguments.

    Flat positions, ``[rows]`` each: ``first``, where the first token of the response is predicted (the others follow
    it), and ``last``, where the whole row has been read.
    """

    arrays: Mapping[str, Ints]
    first: Ints
    last: Ints


@dataclass(frozen=True)
class ModelInputs:
    """``tensors`` by the names of the module's arguments. ``select``, ``targets`` ``[num_tokens]``: token k is
    predicted at flat position ``select[k]`` and is ``targets[k]``. ``last [rows]``: see ``Arranged``. ``measure``: what
    else is to be known of the tokens, of a family that gives each its likelihood.
    """

    tensors: Mapping[str, Tensor]
    select: Tensor
    targets: Tensor
    last: Tensor
    measure: Measure | None = field(default=None, kw_only=True)


class Family(Protocol):
    """``main_output``: the name of its number for each token that is read. ``peft_task``: PEFT's word for it."""

    main_output: str
    peft_task: str

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """The model at ``path``; with ``dropout`` False every dropout of it is 0. ``new_head``: a head that the files
        lack may be started. ``on_meta``: names and sizes only, in no memory; what would raise raises the same.

        Raises UserError for what is no model of the family, or lacks weights.
        """
        ...

    def empty(self, path: str, model: Model) -> Any:
        """The Hugging Face model without weights, on the meta device. Raises UserError when there is none."""
        ...

    def arrange(
        self, prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int,
        unread: int | None,
    ) -> Arranged:  # fmt: skip
        """The rows of a micro-batch, padded, or those of a decoder in one (``Decoder.packed``). A row has been read at
        its last token that is not ``unread``."""
        ...

    def positions(self, prompt: int, response: int) -> int:
        """How many positions a model must have for a prompt and a response of so many tokens."""
        ...

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """One pass through ``forward``, the module or its engine: ``main_output`` and, of the others, what is wanted.

        ``reads`` "tokens" gives ``[num_tokens]``; "last" gives ``[rows]``, where the family has one number a row.
        """
        ...

    def stops(self, tokenizer: Any, module: Any, named: Sequence[str] | None) -> tuple[int, ...]:
        """The tokens that end a response, see ``models.stops``; none where it gives no responses."""
        ...


def family_at(name: FamilyName, path: str, model: Model) -> FamilyName:
    """The family that does the work of ``name`` with the model at ``path``. Raises UserError where there is none."""
    return family_in(name, load_config(path, model).to_dict()).name


def find_family(name: FamilyName, labels: tuple[str, ...] = (), *, packed: bool = False) -> Family:
    """The family of that name. ``labels``: what the outputs of its heads are called, of a classifier. ``packed``: of
    decoders, see ``models.packing``."""
    module, _, kind = FAMILIES[name].implementation.partition(":")
    told: dict[str, Any] = ({"labels": labels} if labels else {}) | ({"packed": True} if packed else {})
    family: Family = getattr(import_module(module), kind)(**told)
    return family
