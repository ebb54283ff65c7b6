"""The update rules of which a recipe names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias, get_args

from distft.config.kinds import Kinds
from distft.config.optimizers.adafactor import Adafactor
from distft.config.optimizers.adamw import AdamW, EightBitAdamW
from distft.config.optimizers.lion import Lion
from distft.config.optimizers.muon import Muon
from distft.config.optimizers.optimizer import REFUSED, Optimizer
from distft.config.optimizers.sgd import Sgd

_Union: TypeAlias = AdamW | EightBitAdamW | Adafactor | Lion | Muon | Sgd
OPTIMIZER_KINDS: Final = Kinds("name", Optimizer, get_args(_Union), REFUSED)
OPTIMIZERS: Final[Mapping[str, type[Optimizer]]] = OPTIMIZER_KINDS.by_name
AnyOptimizer: TypeAlias = Annotated[_Union, OPTIMIZER_KINDS]


def roles_take_the_name(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe as it is written, in which a role's own optimizer that names no rule is of the recipe's."""
    optimizer, models = raw.get("optimizer"), raw.get("models")
    name = optimizer.get("name") if isinstance(optimizer, Mapping) else getattr(optimizer, "name", None)
    if not isinstance(name, str) or name not in OPTIMIZERS or not isinstance(models, Mapping):
        return raw
    return {**raw, "models": {role: _named(model, name) for role, model in models.items()}}


def _named(model: Any, name: str) -> Any:
    own = model.get("optimizer") if isinstance(model, Mapping) else None
    return {**model, "optimizer": {"name": name, **own}} if isinstance(own, Mapping) else model
