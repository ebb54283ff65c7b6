"""What a plan may use: cores, memory and GPUs of the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 1024**3
# Where Hugging Face looks for models and data; a worker on another node must look in the same places.
PASSED_ON = (
    "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """The machines that a plan may use; for ``ray`` clusters what the running cluster reports of its nodes.

    ``cpus``, ``gpus`` and ``memory_gib`` are per node. ``gpu_memory_gib`` is of the smallest GPU.
    """

    cpus: int
    memory_gib: float
    gpus: int = 0
    gpu_memory_gib: float = 0.0
    gpu_type: str = ""
    nodes: int = 1
    loopback: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
