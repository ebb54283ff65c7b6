"""What the ranks of a test's group do. Everything returned is plain numpy, so that it travels."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from deepspeed.runtime.zero import partition_parameters
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from distft.algorithms import linear_logprobs
from distft.common.errors import DistftError, EnvironmentFallsShort, UserError
from distft.common.seeding import restore_rng_state, rng_state, seed_everything
from distft.config.adapters.adapter import Adapter
from distft.config.fewer_bits import QuantizationMethod
from distft.config.models import Engine as EngineConfig
from distft.config.models import Model, Quantization
from distft.config.optimizers.adamw import AdamW
from distft.config.optimizers.optimizer import Optimizer
from distft.engine import host_copy, process_group, whole_weights
from distft.engine.diverged import NonFiniteGradients
from distft.engine.engine import Engine, writable
from distft.engine.layer_groups import layer_groups
from distft.engine.secondary import drop_second_shards
from distft.engine.shaping import Shaping, shaping_of
from distft.engine.shards import shard_file
from distft.engine.whole_weights import take_weights, write_weights
from distft.models.adapters.adapt import add_adapters
from distft.models.buffers import kept_buffers
from distft.models.families.causal import load_causal
from distft.models.families.scalar import load_scalar
from distft.models.load import DTYPES, start_head
from distft.models.selected import Reading, SelectedLogits
from distft.workers.saving import BackgroundSave, load_share, save_share

LENGTH = 12
VOCABULARY = 96
RATE = 1e-2


@dataclass(frozen=True)
class Setup:
    """One engine over the tiny model in ``folder``."""

    folder: str
    stage: int = 3
    dtype: str = "float32"
    optimizer: Optimizer | None = field(default_factory=lambda: AdamW(learning_rate=RATE, weight_decay=0.1))
    engine: dict[str, Any] = field(default_factory=dict)
    checkpointing: bool = False
    dropout: bool = False
    threshold: int = 0
    adapter: Adapter | None = None
    quantized: QuantizationMethod | None = None

    def model(self) -> Model:
        config = EngineConfig(zero_stage=self.stage, persistence_threshold=self.threshold, **self.engine)
        return Model(
            path=self.folder,
            dtype=self.dtype,
            engine=config,
            gradient_checkpointing=self.checkpointing,
            peft=self.adapter,
            quantization=Quantization(method=self.quantized) if self.quantized else None,
        )

    def build(self) -> Engine:
        model = self.model()
        with Engine.sharded_loading(model.engine, model.dtype, quantized=self.quantized is not None):
            module = load_causal(self.folder, model, dropout=self.dropout)
        if self.adapter is not None:
            with Engine.sharded_loading(model.engine, model.dtype):
                add_adapters(module.model, self.adapter, dropout=self.dropout, seed=5)
        return Engine(module, model.engine, self.dtype, self.optimizer, model.rate_ratio)


def sequence(number: int) -> torch.Tensor:
    """Tokens ``[1, LENGTH]`` of the sample of that number."""
    return torch.randint(0, VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(number))


def micro_loss(engine: Engine, samples: Sequence[int], num_tokens: int) -> torch.Tensor:
    """The samples' share of the step's mean loss; no samples are dummy work that weighs nothing."""
    ids = torch.cat([sequence(sample) for sample in samples] or [sequence(0)])
    select = torch.cat([torch.arange(LENGTH - 1) + row * LENGTH for row in range(len(ids))])
    logits = engine.forward(input_ids=ids, select=select)
    loss = F.cross_entropy(logits.float(), ids[:, 1:].reshape(-1), reduction="sum") / num_tokens
    return loss if samples else loss * 0.0


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """All parameters, whole."""
    return {name: tensor.detach().float().numpy().copy() for name, tensor in engine.full_tensors()}


def take_steps(engine: Engine, rank: int, steps: Sequence[Any], rate: float = RATE) -> list[float]:
    """Optimizer steps; ``steps[i][rank]`` are the rank's micro-batches of sample numbers. Returns the norms."""
    norms = []
    for step in steps:
        num_tokens = (LENGTH - 1) * sum(len(micro) for micros in step for micro in micros)
        for samples in step[rank]:
            engine.backward(micro_loss(engine, samples, num_tokens))
        norms.append(engine.step(rate))
    return norms


def train(rank: int, world: int, setup: Setup, steps: Sequence[Any], rate: float = RATE) -> dict[str, Any]:
    """Trains and reports norms, weights and elements held."""
    engine = setup.build()
    norms = take_steps(engine, rank, steps, rate)
    held = engine.held()
    return {"norms": norms, "weights": weights(engine), "held": held}


def recorded(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """The norms by layers that a step leaves on this rank, and the weights that they are of."""
    engine = setup.build()
    norms = engine.layer_norms()
    found: dict[str, Any] = {"groups": layer_groups(engine.module), "before": norms.weights()}
    found["weights_before"] = weights(engine)
    (norm,) = take_steps(engine, rank, steps)
    found |= {"gradients": norms.take_gradients(norm), "gradients_again": norms.take_gradients(norm)}
    return found | {"after": norms.weights(), "weights_after": weights(engine)}


def shape(
    rank: int, world: int, setup: Setup, steps: Sequence[Any], total: int, folder: str = "", then: Sequence[Any] = ()
) -> dict[str, Any]:
    """Trains adapters that are shaped beside the loss; with ``folder`` saves, goes on with ``then``, and does that
    again in a fresh engine from what was saved."""
    found: dict[str, Any] = {"norms": [], "left": [], "penalties": [], "weights": []}

    def take(engine: Engine, shaping: Shaping, some: Sequence[Any], first: int) -> None:
        for number, step in enumerate(some, first):
            shaping.begin(number)
            num_tokens = (LENGTH - 1) * sum(len(micro) for micros in step for micro in micros)
            for samples in step[rank]:
                engine.backward(micro_loss(engine, samples, num_tokens))
            penalty = shaping.penalty()
            engine.backward(penalty / world)
            found["norms"].append(engine.step(RATE))
            found["penalties"].append(float(penalty.detach()))
            found["left"].append(shaping.cut(number, total))

    def built() -> tuple[Engine, Shaping]:
        engine = setup.build()
        shaping = shaping_of(engine, setup.adapter, seed=7)
        assert shaping is not None
        return engine, shaping

    engine, shaping = built()
    take(engine, shaping, steps, 0)
    if folder:
        save(engine, rank, folder)
        process_group.barrier()
        take(engine, shaping, then, len(steps))
        found["weights"].append(weights(engine))
        engine, shaping = built()
        engine.load(Path(folder))
        take(engine, shaping, then, len(steps))
    found["weights"].append(weights(engine))
    buffers = kept_buffers(engine.module)
    found["buffers"] = {name: buffer.float().numpy() for name, buffer in buffers.items()}
    return found


def train_fused(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """As ``train``, by fused log-probabilities: in many chunks on the first rank, at once on the others."""
    usual = linear_logprobs._CHUNK_ELEMENTS_CPU
    linear_logprobs._CHUNK_ELEMENTS_CPU = 500 if rank == 0 else usual
    try:
        engine = setup.build()
        assert cast(SelectedLogits, engine.module).logit_map is not None
        norms = []
        for step in steps:
            num_tokens = (LENGTH - 1) * sum(len(micro) for micros in step for micro in micros)
            for samples in step[rank]:
                ids = torch.cat([sequence(sample) for sample in samples] or [sequence(0)])
                select = torch.cat([torch.arange(LENGTH - 1) + row * LENGTH for row in range(len(ids))])
                reading = Reading(ids[:, 1:].reshape(-1), ("logprobs", "entropy", "logits_mean"))
                logprobs = engine.forward(input_ids=ids, select=select, reading=reading)["logprobs"]
                engine.backward(-logprobs.sum() / num_tokens * (1.0 if samples else 0.0))
            norms.append(engine.step(RATE))
        return {"norms": norms, "weights": weights(engine)}
    finally:
        linear_logprobs._CHUNK_ELEMENTS_CPU = usual


def train_past_nan(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """As ``train``, with a step in the middle whose loss is NaN on the last rank only."""
    engine = setup.build()
    take_steps(engine, rank, steps[:1])
    before = weights(engine)
    loss = micro_loss(engine, [1], LENGTH - 1)
    engine.backward(loss * (float("nan") if rank == world - 1 else 1.0))
    raised = False
    try:
        engine.step(RATE)
    except NonFiniteGradients:
        raised = True
    after = weights(engine)
    take_steps(engine, rank, steps[1:])
    return {"raised": raised, "before": before, "after": after, "weights": weights(engine)}


def train_past_dropped(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """As ``train``, with gradients in the middle that are thrown away, though they are numbers."""
    engine = setup.build()
    take_steps(engine, rank, steps[:1])
    before, scale = weights(engine), engine.states().header
    engine.backward(micro_loss(engine, [1, 2], LENGTH - 1))
    engine.drop()
    found = {"before": before, "after": weights(engine), "same_facts": engine.states().header == scale}
    take_steps(engine, rank, steps[1:])
    return found | {"weights": weights(engine)}


def held_between(rank: int, world: int, setup: Setup) -> dict[str, Any]:
    """What is held after loading, after a forward, after a backward, after a step and after an evaluation."""
    engine = setup.build()
    found = {"loaded": engine.held()}
    with torch.no_grad():
        micro_loss(engine, [1], 1)
    found["evaluated"] = engine.held()
    if engine.trained:
        engine.backward(micro_loss(engine, [1], 1))
        found["backward"] = engine.held()
        found["whole_gradients"] = sum(p.grad.numel() for p in engine.module.parameters() if p.grad is not None)
        engine.step(RATE)
        found["stepped"] = engine.held()
    return found


def save(engine: Engine, rank: int, folder: str) -> None:
    """This rank's file."""
    engine.states().write(shard_file(Path(folder), rank))


def save_and_go_on(rank: int, world: int, setup: Setup, folder: str, first: Any, then: Any) -> dict[str, Any]:
    """Trains, saves, trains on, and then writes the copy that was made when it saved, below ``later``; then loads into
    a fresh engine and trains on again."""
    seed_everything(100 + rank)
    engine = setup.build()
    take_steps(engine, rank, first)
    save(engine, rank, folder)
    kept, copy = rng_state(), engine.snapshot()
    process_group.barrier()
    norms = take_steps(engine, rank, then)
    copy.write(shard_file(Path(folder, "later"), rank))
    undisturbed = weights(engine)
    seed_everything(7)
    fresh = setup.build()
    fresh.load(Path(folder))
    restore_rng_state(kept)
    repeated = take_steps(fresh, rank, then)
    return {"norms": (norms, repeated), "weights": (undisturbed, weights(fresh))}


def follow(
    rank: int, world: int, policy: Setup, reference: Setup, folder: str, share: float
) -> list[dict[str, np.ndarray]]:
    """Weights of a policy after a step, of its reference before it follows, after, and as another group of it
    would have them that loads what this one saves."""
    trained, frozen, again = policy.build(), reference.build(), reference.build()
    take_steps(trained, rank, [[[[1, 2]]] * world])
    before, kept = weights(frozen), Path(folder) / "kept"
    usual, whole_weights.GATHER_BYTES = whole_weights.GATHER_BYTES, 10_000  # several files
    try:
        write_weights(trained, Path(folder))
        take_weights(frozen, Path(folder), share)
        records = save_share(frozen, "reference", rank, kept)
        assert len(records) == (len([*(kept / "reference").iterdir()]) if rank == 0 else 0)
        saves = BackgroundSave()
        saves.begin(frozen, "reference", rank, Path(folder) / "behind")
        assert list(saves.result().files) == records
        process_group.barrier()
        load_share(again, "reference", rank, kept)
    finally:
        whole_weights.GATHER_BYTES = usual
    return [weights(trained), before, weights(frozen), weights(again)]


def follow_another(rank: int, world: int, setup: Setup, other: Setup, folder: str) -> str:
    """What taking over the weights of another model raises."""
    write_weights(other.build(), Path(folder))
    try:
        take_weights(setup.build(), Path(folder), 1.0)
    except (ValueError, DistftError) as error:
        return str(error)
    return ""


def save_both_ways(rank: int, world: int, setup: Setup, folder: str) -> dict[str, Any]:
    """A share saved while the rank waits, and by its thread; without memory for the copy; to a disk that is full; and
    one whose thread is busy: what was reported, and what a second one meanwhile is told."""
    engine, saves, whole = setup.build(), BackgroundSave(), Path(folder)
    take_steps(engine, rank, [[[[1, 2]]]])
    told: dict[str, Any] = {"waited": save_share(engine, "policy", rank, whole / "waited")}
    with patch.object(host_copy, "CHUNK", 2**60):  # of bytes, and there are not as many
        saves.begin(engine, "policy", rank, whole / "none")
    told["none"] = saves.result()
    saves.begin(engine, "policy", rank, whole / "behind")
    told["behind"] = saves.result()
    (whole / "full" / "policy").mkdir(parents=True)
    shard_file(whole / "full" / "policy", rank).symlink_to("/dev/full")
    saves.begin(engine, "policy", rank, whole / "full")
    told["full"] = saves.result()
    go_on = threading.Event()
    saves._thread.submit(go_on.wait)
    saves.begin(engine, "policy", rank, whole / "later")
    told["ended"] = [saves.ended]
    try:
        saves.begin(engine, "policy", rank, whole / "second")
    except ValueError as error:
        told["second"] = str(error)
    go_on.set()
    told["later"] = saves.result()
    told["ended"].append(saves.ended)
    return told


def train_and_save(rank: int, world: int, setup: Setup, folder: str, first: Any, then: Any) -> dict[str, Any]:
    """Trains, saves, trains on."""
    engine = setup.build()
    take_steps(engine, rank, first)
    save(engine, rank, folder)
    kept = weights(engine)
    return {"kept": kept, "norms": take_steps(engine, rank, then), "weights": weights(engine)}


def load_and_go_on(rank: int, world: int, setup: Setup, folder: str, then: Any) -> dict[str, Any]:
    """Loads into a fresh engine and trains on, from a checkpoint of any layout."""
    engine = setup.build()
    engine.load(Path(folder))
    kept = weights(engine)
    return {"kept": kept, "norms": take_steps(engine, rank, then), "weights": weights(engine)}


def load_and_save(rank: int, world: int, setup: Setup, folder: str, again: str) -> None:
    """Loads into a fresh engine and saves what it then holds elsewhere."""
    engine = setup.build()
    engine.load(Path(folder))
    save(engine, rank, again)


def refused_load(rank: int, world: int, setup: Setup, folder: str) -> str:
    """The message with which a checkpoint is refused."""
    try:
        setup.build().load(Path(folder))
    except UserError as error:
        return str(error)
    return ""


def load_missing(rank: int, world: int, setup: Setup, folder: str) -> str:
    """The error of a checkpoint that is not there."""
    engine = setup.build()
    try:
        engine.load(Path(folder))
    except (FileNotFoundError, DistftError) as error:
        return str(error)
    return ""


def allow_float16(rank: int, world: int) -> None:
    """Lets DeepSpeed take float16 on a CPU without instructions for it: slow, but the same numbers."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def float16_here(rank: int, world: int, setup: Setup) -> str:
    """The error of a processor without float16."""
    from deepspeed.accelerator import get_accelerator

    kept = get_accelerator().is_fp16_supported
    get_accelerator().is_fp16_supported = lambda: False
    try:
        setup.build()
    except EnvironmentFallsShort as error:
        return str(error)
    finally:
        get_accelerator().is_fp16_supported = kept
    return ""


def count_recomputations(rank: int, world: int, setup: Setup) -> int:
    """How often the layers run in one micro-batch: twice as often when activations are recomputed."""
    engine = setup.build()
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    module: Any = engine.module
    for layer in module.model.model.layers:
        layer.register_forward_pre_hook(counted)
    engine.backward(micro_loss(engine, [1], 1))
    return count


def load_sharded(rank: int, world: int, setup: Setup) -> dict[str, Any]:
    """A causal and a scalar model loaded into shards, against the files and a plain load."""
    model = setup.model()
    with Engine.sharded_loading(model.engine, model.dtype):
        inside = is_deepspeed_zero3_enabled()
        causal: Any = load_causal(setup.folder, model, dropout=False)
        scalar, fresh = load_scalar(setup.folder, model, dropout=False, new_head=True)
    outside = is_deepspeed_zero3_enabled()
    with writable(scalar.model.score.weight) as weight:
        start_head(weight, 3)
    plain = AutoModelForCausalLM.from_pretrained(setup.folder, dtype=DTYPES[setup.dtype])
    first = Engine(causal, model.engine, setup.dtype, None, model.rate_ratio)
    second = Engine(scalar, model.engine, setup.dtype, setup.optimizer, model.rate_ratio)
    expected = {f"model.{name}": tensor.float().detach().numpy() for name, tensor in plain.named_parameters()}
    ids, select = sequence(1), torch.arange(LENGTH)
    with torch.no_grad():
        logits = first.forward(input_ids=ids, select=select)
        difference = (logits - plain.eval()(input_ids=ids).logits[0]).abs().max().item()
    loaded = weights(second)
    scores = second.forward(input_ids=ids, select=select)
    second.backward(scores.square().mean())
    second.step(0.1)
    head = "model.score.weight"
    return {
        "zero3": (inside, outside),
        "fresh": fresh,
        "expected": expected,
        "causal": weights(first),
        "scalar": loaded,
        "scores": scores.detach().numpy(),
        "coarse_scores": scores.detach().bfloat16().float().numpy(),
        "head_moved": float(np.abs(weights(second)[head] - loaded[head]).max()),
        "buffers": [(name, str(buffer.dtype), buffer.float().numpy()) for name, buffer in causal.model.named_buffers()],
        "plain_buffers": [(name, str(buffer.dtype), buffer.float().numpy()) for name, buffer in plain.named_buffers()],
        "difference": difference,
    }


def load_broken(rank: int, world: int, setup: Setup) -> tuple[str, str, bool]:
    """The error of a folder that cannot be loaded, and whether ZeRO-3 loading is off after it."""
    try:
        setup.build()
    except DistftError as error:
        return type(error).__name__, str(error), is_deepspeed_zero3_enabled()
    return "", "", is_deepspeed_zero3_enabled()


def fail(rank: int, world: int, errors: list[str]) -> tuple[str, str]:
    """What each rank raises when ``errors[rank]`` is what it fails with."""
    kinds = {"user": UserError(f"bad {rank}", where="here"), "other": ValueError(f"odd {rank}")}
    try:
        with process_group.failing_together():
            if errors[rank]:
                raise kinds[errors[rank]]
    except Exception as raised:
        return type(raised).__name__, str(raised)
    return "", ""


def reduce(rank: int, world: int) -> tuple[list[float], list[float], list[float]]:
    """Three reductions of ``[rank + 1, 2**-60]``."""
    values = [float(rank + 1), 2.0**-60]
    names = ("sum", "min", "max")
    total, least, most = (process_group.reduce_scalars(values, name) for name in names)
    return total, least, most


def sleep_and_wake(rank: int, world: int, setup: Setup, steps: Sequence[Any]) -> dict[str, Any]:
    """Trains with a sleep in the middle, of which nothing on the device is left meanwhile."""
    engine = setup.build()
    take_steps(engine, rank, steps[:1])
    if setup.stage == 0:  # on a CPU they may lie in the mapped file, which nobody can empty
        for parameter in engine.module.parameters():
            parameter.data = parameter.data.clone()
    held = sum(engine.held().bytes.values())
    moved = [engine.sleep()]
    asleep = sum(engine.held().bytes.values())
    moved.append(engine.reload())
    awake = sum(engine.held().bytes.values())
    take_steps(engine, rank, steps[1:2])
    kinds = engine.held().bytes
    moved += [engine.sleep(("states",)), engine.sleep(("weights",)), engine.reload(("weights",))]
    without_states = engine.held().bytes
    with torch.no_grad():  # reads the weights, in whatever memory the states had
        engine.train(mode=False)
        micro_loss(engine, [1], 11)
        engine.train(mode=True)
    moved += [engine.sleep(("weights",)), engine.reload()]
    take_steps(engine, rank, steps[2:])
    return {
        "weights": weights(engine), "bytes": (held, asleep, awake), "kinds": kinds, "moved": moved,
        "without_states": without_states,
    }  # fmt: skip


def save_what_is_no_number(rank: int, world: int, setup: Setup, folder: str, value: float) -> list[Any]:
    """A share whose last weight of this rank is ``value``, saved while the rank waits and by its thread."""
    engine, saves, whole = setup.build(), BackgroundSave(), Path(folder)
    take_steps(engine, rank, [[[[1, 2]], [[3]]]])
    shard = engine.states()
    keys = [key for key in json.loads(shard.header) if key != "__metadata__"]
    weight = next(tensor for key, tensor in zip(keys, shard.tensors, strict=True) if key.startswith("weight/"))
    assert isinstance(weight, torch.Tensor)
    weight[-1] = value
    told = save_share(engine, "policy", rank, whole / "waited")
    saves.begin(engine, "policy", rank, whole / "behind")
    return [told, list(saves.result().files)]


def gathered(rank: int, world: int, setup: Setup, step: Any) -> dict[str, Any]:
    """Over which ranks parameters are gathered in the first pass, in later ones, and in the first after a step; bytes
    of the shards meanwhile."""
    engine, asked = setup.build(), list[Any]()
    real = partition_parameters._dist_allgather_fn

    def looked_at(shard: torch.Tensor, whole: torch.Tensor, group: Any = None) -> Any:
        asked.append(torch.distributed.get_process_group_ranks(group or torch.distributed.group.WORLD))
        return real(shard, whole, group)

    def seen() -> list[list[int]]:
        found = [list(one) for one in sorted({tuple(one) for one in asked})]
        asked.clear()
        return found

    def read() -> list[list[int]]:
        with torch.no_grad():
            micro_loss(engine, [1], LENGTH - 1)
        return seen()

    drop_second_shards(engine.module.parameters())  # those that loading left
    with patch.object(partition_parameters, "_dist_allgather_fn", looked_at):
        found: dict[str, Any] = {"first": read()}
        engine.backward(micro_loss(engine, [1], LENGTH - 1))
        found["later"] = seen()
        held = engine.held().bytes
        found |= {"parameters": held["parameters"], "second shards": held.get("second shards", 0)}
        engine.step(RATE)
        asked.clear()
        found["after the step"] = read()
    engine.sleep()
    return found | {"asleep": engine.held().bytes.get("second shards", 0)}


def renewed(rank: int, world: int, setup: Setup, folder: str) -> tuple[float, float, float]:
    """The loss of a frozen model, that once it has taken over other weights, and that of a fresh one that has."""

    def changed() -> Engine:
        other = setup.build()
        for parameter in other.module.parameters():
            with writable(parameter) as values:
                values.mul_(1.5)
        return other

    def loss(engine: Engine) -> float:
        with torch.no_grad():
            return float(micro_loss(engine, [1], LENGTH - 1))

    other = changed()
    write_weights(other, Path(folder))
    theirs = loss(other)
    engine = setup.build()
    loss(engine)
    before = loss(engine)
    take_weights(engine, Path(folder))
    return before, loss(engine), theirs
