"""What all tests share: a quiet, offline environment, and where the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says how busy the machine is.
settings.register_profile("distft", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("distft")

# Before any test module imports torch, transformers or wandb, which read these once; and for the
# processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Whichever test imports Triton first decides for all whether it compiles its functions or interprets them.
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets (hh-rlhf/, dialogsum/, gsm8k/); the test is skipped where it is missing."""
    folder = real_data_folder()
    if folder is None:
        pytest.skip("no real data: neither DISTFT_REAL_DATA nor ../shared/data is a folder")
    return folder


def real_data_folder() -> Path | None:
    """``DISTFT_REAL_DATA``, else ``../shared/data`` beside the checkout, else None."""
    folder = Path(os.environ.get("DISTFT_REAL_DATA") or ROOT.parent / "shared" / "data")
    return folder if folder.is_dir() else None
