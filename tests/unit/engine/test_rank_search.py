"""AdaLoRA's search beside PEFT's own, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from distft.common.errors import UserError
from distft.config.adapters.adalora import AdaLora
from distft.engine.rank_search import RankSearch
from distft.models.adapters.adapt import add_adapters, is_adapter
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, Setup
from tests.unit.engine.test_engine import DECAY, STEPS, spread, steps_for

SEARCHING = AdaLora(method="adalora", r=4, target_r=2, alpha=8.0, initial_steps=1, final_steps=2)
TIMES = 3  # the steps are taken one time after the other
TOTAL = TIMES * len(STEPS)


def by_peft(folder: str, started: dict[str, np.ndarray]) -> tuple[list[float], dict[str, np.ndarray]]:
    """The same steps by PEFT in one process, whole batches at once, from the same adapters."""
    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0, dtype=torch.float32)
    config = AdaLoraConfig(
        task_type="CAUSAL_LM", init_r=4, target_r=2, lora_alpha=8, tinit=1, tfinal=2, deltaT=1, total_step=TOTAL,
        target_modules="all-linear",
    )  # fmt: skip
    module: Any = get_peft_model(base, config).train()
    names = {name: "model." + name.removeprefix("base_model.model.") for name, _ in module.named_parameters()}
    trained = {names[name]: p for name, p in module.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(started[name]))
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY, foreach=False, fused=False)
    norms = []
    for number, step in enumerate(STEPS * TIMES):
        ids = torch.cat([rank_side.sequence(sample) for rank in step for micro in rank for sample in micro])
        module(input_ids=ids, labels=ids).loss.backward()  # with its penalty
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)))
        optimizer.step()
        module.base_model.update_and_allocate(number)
        optimizer.zero_grad()
    return norms, {names[name]: parameter.detach().numpy() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_it_gives_up_what_pefts_does(groups: dict[int, Group], folder: str, world_size: int) -> None:
    setup = Setup(folder, 0, adapter=SEARCHING)
    started = groups[world_size].call(rank_side.train, setup, [])[0]["weights"]
    norms, wanted = by_peft(folder, started)
    for answer in groups[world_size].call(rank_side.shape, setup, steps_for(world_size) * TIMES, TOTAL):
        assert answer["norms"] == pytest.approx(norms, rel=1e-5)
        assert answer["left"] == sorted(answer["left"], reverse=True)
        assert (answer["left"][0], answer["left"][-1]) == (4.0, 2.0)
        [found] = answer["weights"]
        mean, most = spread(found, wanted)
        assert mean < 1e-6
        assert most < 0.01 * RATE
        zeros = {name: (value == 0).sum() for name, value in found.items() if ".lora_E." in name}
        assert zeros == {name: (wanted[name] == 0).sum() for name in zeros}
        assert sum(zeros.values()) == 2 * len(zeros)
        moved = {name for name, value in found.items() if (value != started[name]).any()}
        assert moved == {name for name in started if is_adapter(name)}


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_checkpoint_knows_what_was_given_up(
    groups: dict[int, Group], folder: str, tmp_path: Path, world_size: int
) -> None:
    setup, steps = Setup(folder, 0, adapter=SEARCHING), steps_for(world_size) * TIMES
    middle = len(steps) // 2
    told = (setup, steps[:middle], TOTAL, str(tmp_path), steps[middle:])
    for answer in groups[world_size].call(rank_side.shape, *told):
        undisturbed, repeated = answer["weights"]
        assert spread(repeated, undisturbed) == (0.0, 0.0)
        number = len(steps) - middle
        assert answer["norms"][middle : middle + number] == answer["norms"][middle + number :]
        assert answer["left"][middle : middle + number] == answer["left"][middle + number :]


def test_steps_that_leave_none_for_the_search(folder: str) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    add_adapters(model, SEARCHING, dropout=False, seed=1)
    search = RankSearch(model, SEARCHING)
    search.require_room(4, "reward")
    with pytest.raises(UserError, match="peft.initial_steps: 1 and final_steps 2 leave none of 3 for the search"):
        search.require_room(3, "reward")


@pytest.mark.parametrize("every", [1, 4, 10])
def test_after_the_last_step_the_target_is_left(folder: str, every: int) -> None:
    """Of 11 steps, with no final ones; every 10: searched once, after the last."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).train()
    adalora = AdaLora(method="adalora", r=4, target_r=2, alpha=8.0, search_every=every)
    add_adapters(model, adalora, dropout=False, seed=1)
    search = RankSearch(model, adalora)
    trained = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    for step in range(11):
        ids = rank_side.sequence(step)
        (model(input_ids=ids, labels=ids).loss + search.penalty()).backward()
        search.see()
        optimizer.step()
        left = search.cut(step, 11)
        optimizer.zero_grad()
    numbers = [int((value != 0).sum()) for name, value in model.named_parameters() if ".lora_E." in name]
    assert (left, sum(numbers) / len(numbers)) == (2.0, 2.0)
