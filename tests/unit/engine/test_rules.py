"""Update rules against their formulas and other people's code; what they keep, to files and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from distft.config.optimizers.adafactor import Adafactor
from distft.config.optimizers.adamw import AdamW, EightBitAdamW
from distft.config.optimizers.lion import Lion
from distft.config.optimizers.muon import Muon, in_layers
from distft.config.optimizers.optimizer import Optimizer
from distft.engine.pieces import Piece
from distft.engine.rules import chunks
from distft.engine.rules.adamw_8bit import EightBitAdamW as EightBitRule
from distft.engine.rules.lion import Lion as LionRule
from distft.engine.rules.muon import Muon as MuonRule
from distft.engine.rules.muon import orthogonal
from distft.engine.rules.rounded_adamw import RoundedAdamW, _rounded
from distft.engine.shards import Shards
from distft.planning.optimizer_states import state_bytes
from distft.planning.size_sources import sizes_from_folder
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, Setup
from tests.unit.engine.test_engine import DECAY, OFFLOADED, STEPS, plain_steps, slow, spread, steps_for

COMMON: dict[str, Any] = {"learning_rate": RATE, "weight_decay": DECAY}
RULES: dict[str, Optimizer] = {
    "lion": Lion(**COMMON),
    "rounded": AdamW(**COMMON, state_dtype="bfloat16"),
    "8bit": EightBitAdamW(**COMMON, paged=True),
    "muon": Muon(**COMMON),
    "adafactor": Adafactor(**COMMON),
}


def eight_bits(groups: list[dict[str, Any]]) -> Any:
    """That of bitsandbytes, of tensors of any size, its lowest code as far from zero as its highest."""
    optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=RATE, min_8bit_size=0)
    optimizer.name2qmap["dynamic"][0] = -1.0
    return optimizer


class MuonByTorch(torch.optim.Optimizer):
    """torch's Muon of the matrices in layers, its AdamW of all else: in the tiny model what has as many rows as the
    vocabulary, and what has one dimension."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        matrices, others = groups
        turned = [one for one in matrices["params"] if len(one) != rank_side.VOCABULARY]
        looked_up = [one for one in matrices["params"] if len(one) == rank_side.VOCABULARY]
        self.by = (
            torch.optim.Muon(turned, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{**matrices, "params": looked_up}, others], lr=RATE),
        )

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Of both."""
        for optimizer in self.by:
            optimizer.step()


Rule = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
REFERENCES: dict[str, Rule] = {
    "lion": lambda groups: bitsandbytes.optim.Lion(groups, lr=RATE, betas=(0.9, 0.99), optim_bits=32),
    "rounded": lambda groups: torch.optim.AdamW(groups, lr=RATE),
    "8bit": lambda groups: eight_bits(groups),
    "muon": lambda groups: MuonByTorch(groups),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=RATE),
}
# The mean difference of the weights after all steps, as a share of the rate. Where a gradient is nearly 0 its rounding
# decides its sign, and Lion's step with it; a bfloat16 is off by up to 0.8 %, a code of 8 bits by more, and in a shard
# its scale is of other neighbours.
NEAR = {"lion": 2e-3, "rounded": 2e-2, "8bit": 1e-1, "muon": 3e-2, "adafactor": 1e-3}
# Which run by default; the others are slow.
STAGES = dict.fromkeys(RULES, (0, 1, 2, 3)) | {"adafactor": (0,)}
USUAL = {("lion", 0, 1), ("rounded", 2, 2), ("8bit", 3, 2), ("muon", 3, 2), ("adafactor", 0, 2)}
ANYWHERE = [(rule, stage, ranks) for rule in RULES for stage in STAGES[rule] for ranks in (1, 2)]


def some_slow(cases: list[tuple[Any, ...]]) -> list[Any]:
    return [case if case in USUAL else slow(*case) for case in cases]


@pytest.mark.parametrize(("rule", "stage", "world_size"), some_slow(ANYWHERE))
def test_a_rule_is_its_reference(groups: dict[int, Group], folder: str, rule: str, stage: int, world_size: int) -> None:
    norms, wanted = plain_steps(folder, rule=REFERENCES[rule])
    setup = Setup(folder, stage, optimizer=RULES[rule])
    for answer in groups[world_size].call(rank_side.train, setup, steps_for(world_size)):
        assert answer["norms"] == pytest.approx(norms, rel=NEAR[rule])
        assert answer["norms"][0] == pytest.approx(norms[0], rel=1e-5)
        assert spread(answer["weights"], wanted)[0] < NEAR[rule] * RATE


@pytest.mark.parametrize(("rule", "stage", "world_size"), some_slow(ANYWHERE))
def test_a_rule_goes_on_and_sleeps_as_if_nothing_had_been(
    groups: dict[int, Group], folder: str, tmp_path: Path, rule: str, stage: int, world_size: int
) -> None:
    """Bit for bit; what it keeps beside each weight takes the bytes that are declared."""
    setup, steps = Setup(folder, stage, "bfloat16", optimizer=RULES[rule]), steps_for(world_size)
    for answer in groups[world_size].call(rank_side.save_and_go_on, setup, str(tmp_path), steps[:2], steps[2:]):
        assert answer["norms"][0] == answer["norms"][1]
        assert spread(*answer["weights"]) == (0.0, 0.0)
    awake = groups[world_size].call(rank_side.train, setup, steps)[0]
    slept = groups[world_size].call(rank_side.sleep_and_wake, setup, STEPS if world_size == 2 else steps)[0]
    assert spread(slept["weights"], awake["weights"]) == (0.0, 0.0)
    weights = slept["kinds"]["master weights"] / 4
    declared = state_bytes(RULES[rule], sizes_from_folder(Path(folder)).trained)
    assert slept["kinds"]["optimizer states"] == pytest.approx(weights * declared, rel=0.01)


def kept(folder: Path, rule: str) -> dict[tuple[str, str], torch.Tensor]:
    """Weights and states, whole, as the files say them."""
    shards, found = Shards(folder), {}
    for name, shape in shards.facts["shapes"].items():
        states = RULES[rule].states_beside(shape, in_layers=in_layers(name))
        for kind in ("weight", *(state.name for state in states)):
            numbers = next((state.shape(shape) for state in states if state.name == kind), shape)
            found[kind, name] = torch.empty(numbers)
            shards.read(kind, name, 0, found[kind, name].view(-1))
    return found


OF_REPLICAS: Any = ((2, 0, {}), (1, 0, {}), (2, 0, {}))
LAYOUTS: list[tuple[tuple[int, int, dict[str, str]], ...]] = [
    ((2, 3, {}), (1, 0, {}), (2, 2, OFFLOADED)), ((1, 0, {}), (2, 1, {}), (2, 3, OFFLOADED)),
]  # fmt: skip


MOVES = [(rule, one) for rule in RULES for one in ((OF_REPLICAS,) if rule == "adafactor" else LAYOUTS)]


@pytest.mark.parametrize(("rule", "layouts"), [case if case == ("lion", LAYOUTS[0]) else slow(*case) for case in MOVES])
def test_what_it_keeps_goes_from_layout_to_layout(
    groups: dict[int, Group], folder: str, tmp_path: Path, rule: str, layouts: tuple[tuple[int, int, Any], ...]
) -> None:
    """Trained in one, read and written again in another, and from there in a third, then trained on."""
    setups = [Setup(folder, stage, "bfloat16", optimizer=RULES[rule], engine=there) for _, stage, there in layouts]
    (first, *_), (second, *_), (third, *_) = layouts
    groups[first].call(rank_side.train_and_save, setups[0], str(tmp_path / "0"), steps_for(first)[:2], [])
    groups[second].call(rank_side.load_and_save, setups[1], str(tmp_path / "0"), str(tmp_path / "1"))
    groups[third].call(rank_side.load_and_save, setups[2], str(tmp_path / "1"), str(tmp_path / "2"))
    start, *others = (kept(tmp_path / str(number), rule) for number in range(3))
    assert min(tensor.abs().max() for tensor in start.values()) > 0
    for found in others:
        for (kind, name), tensor in found.items():
            # In other blocks each of the two moves is off by half the widest gap between codes, 0.7 % of a block's
            # largest, which may be any weight's.
            largest = max(other.abs().max().item() for (its, _), other in start.items() if its == kind)
            near = 0.015 * largest if rule == "8bit" and kind != "weight" else 0.0
            assert (tensor - start[kind, name]).abs().max() <= near, (kind, name)
    then = groups[third].call(rank_side.load_and_go_on, setups[2], str(tmp_path / "2"), steps_for(third)[2:])
    wanted = groups[first].call(rank_side.load_and_go_on, setups[0], str(tmp_path / "0"), steps_for(first)[2:])
    assert then[0]["norms"] == pytest.approx(wanted[0]["norms"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "stage"), [(rule, stage) for rule in RULES for stage in STAGES[rule] if stage])
def test_offload_changes_no_number(groups: dict[int, Group], folder: str, rule: str, stage: int) -> None:
    usual, offloaded = (
        groups[2].call(rank_side.train, Setup(folder, stage, optimizer=RULES[rule], engine=engine), STEPS)[0]
        for engine in ({}, OFFLOADED)
    )
    assert usual["norms"] == pytest.approx(offloaded["norms"], rel=1e-5)
    assert spread(usual["weights"], offloaded["weights"])[0] < 1e-6


@pytest.mark.parametrize(("stage", "world_size"), [
    (3, 2), *(slow(stage, ranks) for stage in range(4) for ranks in (1, 2) if (stage, ranks) != (3, 2)),
])  # fmt: skip
def test_each_layer_moves_at_its_own_rate(groups: dict[int, Group], untied: str, stage: int, world_size: int) -> None:
    """AdamW's first step moves every weight that has a gradient by its rate."""
    setup = Setup(untied, stage, optimizer=AdamW(learning_rate=RATE, layer_decay=0.5))
    before = {f"model.{n}": p for n, p in AutoModelForCausalLM.from_pretrained(untied).named_parameters()}
    answer = groups[world_size].call(rank_side.train, setup, steps_for(world_size)[:1])[0]
    for name, weight in answer["weights"].items():
        below = 3 if "embed" in name else 2 - int(name.split(".")[3]) if "layers" in name else 0
        moved = abs(weight - before[name].detach().numpy()).max()
        assert moved == pytest.approx(RATE * 0.5**below, rel=0.01), name


def two_steps(rule: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> list[float]:
    """Two weights, 1 and -1, after two steps along the gradients 1 and -0.5, then -3 and -0.5."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = rule([{"params": [weight], "weight_decay": 0.5}])
    for gradient in ([1.0, -0.5], [-3.0, -0.5]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.tolist()


def test_muon_by_hand() -> None:
    """A matrix with the singular values 3 and 4: after one step along it they are what the polynomial makes of 0.6
    and 0.8 in five rounds, times 0.2 sqrt(2), in the directions that they were in."""
    left, right = (torch.tensor([[c, -s], [s, c]]) for c, s in ((0.6, 0.8), (0.28, 0.96)))
    gradient = left @ torch.diag(torch.tensor([3.0, 4.0])) @ right
    values = []
    for value in (0.6, 0.8):
        for _ in range(5):
            value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
        assert 0.5 < value < 1.5
        values.append(value)
    wanted = left @ torch.diag(torch.tensor(values)) @ right * 0.2 * 2**0.5
    torch.testing.assert_close(orthogonal(gradient), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(orthogonal(torch.stack([gradient, -gradient])), torch.stack([wanted, -wanted]))


class NewTensors(TorchDispatchMode):
    """``largest``: elements of the largest tensor that is made, not written to."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self._known, self.largest = {one.untyped_storage().data_ptr() for one in known}, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls it."""
        made = function(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in self._known:
                self.largest = max(self.largest, one.numel())
        return made


@pytest.mark.parametrize("rule", ["lion", "rounded", "muon"])
def test_a_step_makes_nothing_as_large_as_what_it_steps_on(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """Five matrices of 4 x 4 in one flat tensor: a step takes a matrix at a time, or a chunk of 16."""
    monkeypatch.setattr(chunks, "CHUNK", 16)
    weight = torch.nn.Parameter(torch.randn(5 * 16))
    groups: list[dict[str, Any]] = [{"params": [weight], "orthogonal": True}]
    makers: dict[str, Callable[[], Any]] = {
        "lion": lambda: LionRule(groups, 0.1, (0.9, 0.99)),
        "rounded": lambda: RoundedAdamW(groups, 0.1, (0.9, 0.99), 1e-8),
        "muon": lambda: MuonRule(groups, 0.1, 0.95, (0.9, 0.99), 1e-8),
    }
    optimizer = makers[rule]()
    if rule == "muon":
        optimizer.know([Piece(str(n), torch.Size([4, 4]), 0, 16, weight, 16 * n) for n in range(5)], cut=False)
    weight.grad = torch.randn(5 * 16)
    optimizer.step()
    states = [state for state in optimizer.state[weight].values() if isinstance(state, torch.Tensor)]
    with NewTensors([weight, weight.grad, *states]) as seen:
        optimizer.step()
    assert seen.largest == 16


def test_lion_by_hand() -> None:
    """First each moves by 0.1 against its gradient after losing 5 %: 0.85, -0.85, and m = 0.01, -0.005 (beta2 0.99).
    Then 0.9 m + 0.1 g = -0.291 and -0.0545: both move up."""
    found = two_steps(lambda groups: LionRule(groups, 0.1, (0.9, 0.99)))
    assert found == pytest.approx([0.85 * 0.95 + 0.1, -0.85 * 0.95 + 0.1])


def test_eight_bits_are_those_of_bitsandbytes() -> None:
    """To the bit, weights and codes, after 30 steps; and again from the values that files have."""
    random = torch.Generator().manual_seed(1)
    ours, theirs = (torch.nn.Parameter(torch.ones(70, 31)) for _ in range(2))
    groups = [{"params": [ours], "weight_decay": DECAY}]
    rule, reference = (
        EightBitRule(groups, RATE, (0.9, 0.999), 1e-8, paged=False),
        eight_bits([{"params": [theirs], "weight_decay": DECAY}]),
    )
    for _ in range(30):
        gradient = torch.randn(70, 31, generator=random) * torch.rand(70, 1, generator=random) ** 8
        for weight, optimizer in ((ours, rule), (theirs, reference)):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(ours, theirs)
    again = EightBitRule(groups, RATE, (0.9, 0.999), 1e-8, paged=False)
    for name, code in (("exp_avg", "state1"), ("exp_avg_sq", "state2")):
        kept = rule.state[ours]
        assert torch.equal(kept[name], reference.state[theirs][code])
        values = rule.values(ours, name, 0, 70 * 31)
        assert torch.equal(values[100:900], rule.values(ours, name, 100, 800))
        assert values.abs().max() > 0
        again.fill(ours, name, lambda first, target, values=values: target.copy_(values[first : first + len(target)]))
        for one in (name, f"{name}_scale"):
            assert torch.equal(again.state[ours][one], kept[one])


def test_rounded_moments_are_right_on_average() -> None:
    """1 + 2**-9 lies a quarter of the way from 1 to the next bfloat16, 1 + 2**-7; what bfloat16 can hold stays."""
    for sign in (1, -1):
        values = torch.full((100_000,), sign * (1 + 2**-9))
        found = _rounded(values, torch.Generator().manual_seed(1))
        assert set(found.tolist()) == {sign * 1.0, sign * (1 + 2**-7)}
        assert found.mean().item() == pytest.approx(sign * (1 + 2**-9), abs=1e-4)
        assert torch.equal(_rounded(found, torch.Generator().manual_seed(2)), found)


def test_a_rounded_second_moment_falls_as_it_should() -> None:
    """Without gradients it is 0.999 times itself at each step: after 700 half of it is left. To the nearest bfloat16
    nothing would have gone."""
    weight = torch.nn.Parameter(torch.zeros(10_000))
    optimizer = RoundedAdamW([{"params": [weight]}], 0.1, (0.9, 0.999), 1e-8)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    start = optimizer.state[weight]["exp_avg_sq"].float().mean().item()
    assert start == pytest.approx(0.001, rel=1e-3)
    weight.grad = torch.zeros_like(weight)
    for _ in range(700):
        optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].float().mean().item() == pytest.approx(start * 0.999**700, rel=0.01)
