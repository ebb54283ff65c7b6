"""Runs by other optimizers than AdamW, each role by its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Start, ppo
from tests.e2e.test_resume import assert_same, disturb, run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

RATES = ("optimizer.learning_rate=1e-3", "models.value.optimizer.learning_rate=1e-2")
WHOLE = ("models.policy.engine.zero_stage=0", "models.value.engine.zero_stage=0")
ROLES = {
    "muon and 8 bits": ("optimizer.name=muon", "models.value.optimizer.name=adamw_8bit", "optimizer.layer_decay=0.9"),
    "bfloat16 and Lion": ("optimizer.state_dtype=bfloat16", "models.value.optimizer.name=lion"),
    "Adafactor and AdamW": ("optimizer.name=adafactor", "models.value.optimizer.name=adamw", *WHOLE),
}


@pytest.mark.slow
@pytest.mark.parametrize("keys", ROLES.values(), ids=ROLES)
def test_killed_and_started_again_it_is_the_same_run(sft: Path, start: Start, keys: tuple[str, ...]) -> None:
    words = ppo(sft, *RATES, *keys)
    undisturbed = run(start, *words, folder="undisturbed")
    assert_same(disturb(start, words, "PpoPolicy", updates=4), undisturbed)
