"""The adapters of which a model names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias, get_args

from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.adapter import REFUSED, Adapter
from distft.config.adapters.bottleneck import Bottleneck, Parallel
from distft.config.adapters.diff_pruning import DiffPruning
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.selective import BitFit, Selective
from distft.config.kinds import Kinds

_Union: TypeAlias = (
    Lora
    | AdaLora
    | Ia3
    | PromptTuning
    | PTuning
    | PrefixTuning
    | Bottleneck
    | Parallel
    | DiffPruning
    | BitFit
    | Selective
)
ADAPTER_KINDS: Final = Kinds("method", Adapter, get_args(_Union), REFUSED)
ADAPTERS: Final[Mapping[str, type[Adapter]]] = ADAPTER_KINDS.by_name
AnyAdapter: TypeAlias = Annotated[_Union, ADAPTER_KINDS]
