"""What training is about on this rank, to files and back: weights in float32, the optimizer's states, the loss scale.

The files know parameters by name and place and nothing of ranks, ZeRO stages or offload, so that any layout goes on
from them: where it is the one that wrote them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distft.common.errors import UserError
from distft.config.optimizers.muon import in_layers
from distft.config.optimizers.optimizer import Optimizer, State
from distft.engine.diverged import NonFiniteWeights
from distft.engine.pieces import Piece, pieces_here
from distft.engine.process_group import failing_together
from distft.engine.shards import Made, Shard, Shards, make_shard, piece_key
from distft.models.buffers import kept_buffers
from distft.models.load import DTYPES

WEIGHT = "weight"
# How a recipe calls the rules that a checkpoint calls by their classes.
_NAMES = {
    "AdamW": "adamw", "RoundedAdamW": "adamw (state_dtype: bfloat16)", "EightBitAdamW": "adamw_8bit",
    "Adafactor": "adafactor", "Lion": "lion", "Muon": "muon", "SGD": "sgd",
}  # fmt: skip
# Of float16's scale, as far as both of DeepSpeed's holders of it have them.
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def states_now(module: nn.Module, optimizer: Any, states: Sequence[State], zero_stage: int) -> Shard:
    """What this rank's file is to hold: its shards; where nothing is sharded, its part of what all ranks hold. The
    tensors are those that training changes."""
    rank, inner = dist.get_rank(), _bare(optimizer)
    pieces = pieces_here(module, optimizer, zero_stage)
    if zero_stage == 0:
        parts = (piece.part(rank, dist.get_world_size()) for piece in pieces)
        pieces = [piece for piece in parts if piece.length]
    facts = {
        "shapes": _shapes(module),
        "optimizer": type(inner).__name__,
        "states": sorted(one.name for one in states if any(one.name in kept for kept in inner.state.values())),
        "step": max((float(state["step"]) for state in inner.state.values() if "step" in state), default=None),
        "scale": _scale(optimizer),
    }
    buffers = kept_buffers(module) if rank == 0 else {}
    return make_shard(list(_tensors(pieces, inner, states)), buffers, facts)


def require_finite(module: nn.Module, optimizer: Any, zero_stage: int, dtype: torch.dtype) -> None:
    """This rank's trained weights are numbers, also rounded to ``dtype``, in which the model computes. Raises
    NonFiniteWeights."""
    extremes: dict[str, Tensor] = {}
    for piece in pieces_here(module, optimizer, zero_stage):
        extremes[piece.name] = torch.stack(torch.aminmax(piece.of(piece.owner))).to(dtype)
    if extremes:
        finite = torch.stack(list(extremes.values())).isfinite().all(1).tolist()
        if wrong := [name for name, is_finite in zip(extremes, finite, strict=True) if not is_finite]:
            raise NonFiniteWeights(wrong)


def load_states(module: nn.Module, optimizer: Any, section: Optimizer, zero_stage: int, folder: Path) -> None:
    """What the ranks of any layout saved (collective). Raises FileNotFoundError where nothing is, UserError for what
    was saved of other weights or by another optimizer, on all ranks."""
    with failing_together():
        shards = Shards(folder, dist.get_rank())
        _require_same(shards.facts, module, _bare(optimizer), folder)
    with failing_together():
        if zero_stage == 3:
            optimizer.checkpoint_event_prologue()  # what is kept whole becomes shards, and is gathered anew below
        _read(shards, module, optimizer, section, zero_stage)
    _publish(optimizer, zero_stage)


def whole_weights(folder: Path) -> dict[str, Tensor]:
    """All trained parameters, whole, in float32, and the buffers that belong to them, by name, without the ranks that
    saved them. Raises FileNotFoundError where there are none."""
    shards = Shards(folder)
    found = {}
    for name, shape in shards.facts["shapes"].items():
        found[name] = torch.empty(shape)
        shards.read(WEIGHT, name, 0, found[name].view(-1))
    return found | shards.buffers()


def _tensors(pieces: list[Piece], inner: Any, states: Sequence[State]) -> Iterator[tuple[str, Tensor | Made]]:
    for piece in pieces:
        yield piece_key(WEIGHT, piece.start, piece.name), piece.of(piece.owner)
        kept = inner.state.get(piece.owner, {})
        for state in states:
            if state.of != "weights" and piece.start > 0:
                continue  # whole, with the first piece of its weight
            if state.name in kept:
                key = piece_key(state.name, piece.start, piece.name)
                if state.dtype == "blocks":
                    where = (piece.owner, state.name, piece.offset, piece.length)
                    yield key, Made(torch.Size([piece.length]), torch.float32, partial(inner.values, *where))
                else:
                    yield key, piece.of(kept[state.name]) if state.of == "weights" else kept[state.name].view(-1)


def _read(shards: Shards, module: nn.Module, optimizer: Any, section: Optimizer, zero_stage: int) -> None:
    inner, facts = _bare(optimizer), shards.facts
    pieces = pieces_here(module, optimizer, zero_stage)
    inner.state.clear()
    for piece in pieces:
        shards.read(WEIGHT, piece.name, piece.start, piece.of(piece.owner))
    owners: dict[int, list[Piece]] = {}
    for piece in pieces if facts["states"] else ():  # none before the first step
        owners.setdefault(id(piece.owner), []).append(piece)
    for first, *others in owners.values():  # of which all are of one kind
        states = section.states_beside(first.shape, in_layers=in_layers(first.name))
        _read_states(shards, inner, [first, *others], states)
    if buffers := kept_buffers(module):
        there = shards.buffers()
        for name, buffer in buffers.items():
            buffer.copy_(there[name])
    holder = _scale_holder(optimizer)
    for name, value in facts["scale"].items():
        if hasattr(holder, name):
            setattr(holder, name, value)


def _read_states(shards: Shards, inner: Any, pieces: list[Piece], states: Sequence[State]) -> None:
    """The states of the one owner of those pieces."""
    owner, step = pieces[0].owner, shards.facts["step"]
    if step is not None:
        inner.state[owner]["step"] = torch.tensor(step, dtype=torch.float32, device=owner.device)
    for state in states:

        def read(first: int, target: Tensor, kind: str = state.name) -> None:
            """Fills a flat run of the owner's state from its element ``first`` on."""
            for piece in pieces:
                part = piece.within(first, len(target))
                if part.length > 0:
                    shards.read(kind, part.name, part.start, target.narrow(0, part.offset - first, part.length))

        if state.dtype == "blocks":
            inner.fill(owner, state.name, read)
            continue
        shape = owner.shape if state.of == "weights" else state.shape(owner.shape)
        inner.state[owner][state.name] = torch.zeros(shape, dtype=DTYPES[state.dtype], device=owner.device)
        whole = inner.state[owner][state.name].view(-1)
        if state.of == "weights":
            read(0, whole)
        else:
            shards.read(state.name, pieces[0].name, 0, whole)


def _publish(optimizer: Any, zero_stage: int) -> None:
    """From the float32 weights to those that the model computes with (collective at stages 1 to 3)."""
    with torch.no_grad():
        if zero_stage == 3:
            for number, master in enumerate(optimizer.fp32_partitioned_groups_flat):
                optimizer.fp16_partitioned_groups_flat[number].copy_(master)
                optimizer._unflatten_partitioned_parameters(number)
            optimizer.checkpoint_event_epilogue()
        elif zero_stage > 0:
            optimizer.update_lp_params()
        else:
            for weights, masters in zip(getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()),
                                        strict=True):  # fmt: skip
                torch._foreach_copy_(weights, masters)


def _require_same(facts: dict[str, Any], module: nn.Module, inner: Any, folder: Path) -> None:
    there, here = facts["shapes"], _shapes(module)
    hint = "go on with the recipe that wrote it, or start from its exported model (distft export)"
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            said = [f"of shape {shape}" if (shape := found.get(name)) else "not trained" for found in (there, here)]
            what = f"the checkpoint is of other weights: {name} is {said[0]} there, {said[1]} here"
            raise UserError(what, where=str(folder), hint=hint)
    if facts["optimizer"] != type(inner).__name__:
        wrote, reads = (_NAMES.get(name, name) for name in (str(facts["optimizer"]), type(inner).__name__))
        what = f"the checkpoint has the states of {wrote}, the recipe trains with {reads}"
        raise UserError(what, where=str(folder), hint=hint)


def _shapes(module: nn.Module) -> dict[str, list[int]]:
    """The whole shapes of what is trained, by name."""
    return {
        name: list(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _bare(optimizer: Any) -> Any:
    """torch's optimizer, within DeepSpeed's."""
    return getattr(optimizer, "optimizer", optimizer)


def _scale_holder(optimizer: Any) -> Any:
    return getattr(optimizer, "loss_scale_config", None) or getattr(optimizer, "loss_scaler", None)


def _scale(optimizer: Any) -> dict[str, float]:
    holder = _scale_holder(optimizer)
    return {name: value for name in _SCALE if (value := getattr(holder, name, None)) is not None}
