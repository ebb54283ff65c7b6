"""Our keys as DeepSpeed's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distft.common.errors import UserError
from distft.config.models import Engine
from distft.engine import settings as module
from distft.engine.settings import deepspeed_settings


def settings(trained: bool = True, **keys: Any) -> dict[str, Any]:
    return deepspeed_settings(Engine(**keys), "bfloat16", max_grad_norm=0.5, trained=trained)


def test_accumulation_is_ours_and_buckets_are_bounded() -> None:
    found = settings(zero_stage=2, reduce_bucket_size=12_345)
    assert found["managed_gradient_accumulation"] is False
    assert found["zero_force_ds_cpu_optimizer"] is False
    assert found["gradient_clipping"] == 0.5
    assert found["zero_optimization"]["reduce_bucket_size"] == 12_345
    assert "auto" not in str(found)


def test_no_clipping_is_said_where_it_is_ours() -> None:
    """DeepSpeed would clip to 1 where nothing is said, and so would stage 0, whatever ``max_grad_norm`` is."""
    assert deepspeed_settings(Engine(), "float32", max_grad_norm=0.0, trained=True)["gradient_clipping"] == 0.0


def test_a_frozen_role_is_sharded_at_stage_3_or_not_at_all() -> None:
    for stage, wanted in ((0, 0), (1, 0), (2, 0), (3, 3)):
        assert settings(trained=False, zero_stage=stage)["zero_optimization"]["stage"] == wanted
    assert "gradient_clipping" not in settings(trained=False)


def test_second_shards_are_asked_for_where_parameters_are_sharded() -> None:
    for trained in (True, False):
        assert settings(trained, hpz_partition_size=4)["zero_optimization"]["zero_hpz_partition_size"] == 4
        assert "zero_hpz_partition_size" not in settings(trained)["zero_optimization"]
    assert Engine(hpz_partition_size=4).on(1).hpz_partition_size == 1


def test_offload_where_the_stage_has_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="stage 3 only"):
        settings(zero_stage=2, offload_parameters="cpu")
    with pytest.raises(UserError, match="stages 1 to 3"):
        settings(zero_stage=0, offload_optimizer="cpu")
    zero = settings(zero_stage=3, offload_parameters="cpu", offload_optimizer="cpu")["zero_optimization"]
    assert zero["offload_param"]["device"] == zero["offload_optimizer"]["device"] == "cpu"
    assert zero["offload_param"]["pin_memory"] is zero["offload_optimizer"]["pin_memory"] is False
    monkeypatch.setattr(module, "accelerator", lambda: torch.device("cuda", 0))
    zero = settings(zero_stage=3, offload_parameters="cpu", offload_optimizer="cpu")["zero_optimization"]
    assert zero["offload_param"]["pin_memory"] is zero["offload_optimizer"]["pin_memory"] is True
    assert "offload_optimizer" not in settings(False, zero_stage=3, offload_optimizer="cpu")["zero_optimization"]
