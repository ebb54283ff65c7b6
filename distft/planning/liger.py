"""Where a role's layers are Liger's kernels: the plan counts on what the worker then does."""

from __future__ import annotations

import importlib.util

LIGER_PACKAGE = "liger_kernel"
# Families whose log-probabilities and gradients with Liger's layers were held against transformers' (tests/gpu).
LIGER_FAMILIES = frozenset(
    {"gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}
)


def why_no_liger(family: str, *, gpu: bool) -> str:
    """What keeps a model of that family from Liger's kernels on any machine like this; empty where nothing does."""
    if family not in LIGER_FAMILIES:
        return f"Liger's kernels are taken for {', '.join(sorted(LIGER_FAMILIES))}, not for {family}"
    return "" if gpu else "Liger's kernels need a GPU"


def liger_is_installed() -> bool:
    """Whether the package is there, without importing it."""
    return importlib.util.find_spec(LIGER_PACKAGE) is not None


def has_liger(family: str, kernels: str, *, gpu: bool) -> bool:
    """Whether a role of that family computes with Liger's layers, where the nodes have this machine's packages."""
    return kernels != "none" and not why_no_liger(family, gpu=gpu) and liger_is_installed()
