"""Seeds that do not depend on the layout, and the random state of a process for bit-exact resume."""

from __future__ import annotations

import hashlib
import logging
import random
from typing import Any, SupportsIndex

import numpy as np

_log = logging.getLogger(__name__)


def derive(seed: int, *parts: str | SupportsIndex) -> int:
    """A 63-bit seed for a named purpose: the same on every machine, unrelated to any other name's.

    ``derive(seed, "rollout", iteration, sample)``. Names and numbers are kept apart ("1" is not 1).
    """
    digest = hashlib.sha256()
    for part in (seed, *parts):
        text = f"s{part}" if isinstance(part, str) else f"i{part.__index__()}"
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all its devices) from one number."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)


def rng_state() -> dict[str, Any]:
    """The state of python, numpy, torch and every CUDA device, in plain types only (no pickle needed)."""
    import torch

    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), np.asarray(keys, np.uint32).tobytes(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "cuda": [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()] if _has_cuda() else [],
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` returned. Says so if the number of CUDA devices has changed."""
    import torch

    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.frombuffer(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_byte_tensor(state["torch"]))
    saved = state["cuda"]
    present = torch.cuda.device_count() if _has_cuda() else 0
    if len(saved) != present:
        _log.warning("random state of %d CUDA devices was saved, %d are here: the run goes on but not bit-equal",
                     len(saved), present)  # fmt: skip
    for device, cuda_state in enumerate(saved[:present]):
        torch.cuda.set_rng_state(_byte_tensor(cuda_state), device)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _byte_tensor(data: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
