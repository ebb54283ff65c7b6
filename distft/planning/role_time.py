"""How long one rank of a role takes for its work of a step: update, forward pass, generation, weight sync.

Every sequence counts as long as the recipe allows. Each work says what every resource would take alone and how
they overlap; the figures behind it are in ``costs`` and ``rates``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from distft.config.roles import is_rl, optimizer_of, trained_roles, unit_size
from distft.planning import costs
from distft.planning.batch_arithmetic import batch_arithmetic
from distft.planning.footprint import Roles
from distft.planning.hardware import Hardware
from distft.planning.memory import BYTES, fused_chunk
from distft.planning.optimizer_states import made_orthogonal, orthogonal_flops, state_bytes

# Bytes gathered at once while the generator's weights are copied (engine.GATHER_BYTES).
SYNC_BYTES = 256 * 2**20


class Place(NamedTuple):
    """How many ranks a role has, on how many nodes."""

    ranks: int
    nodes: int


@dataclass(frozen=True)
class RoleTime:
    """Seconds that a role works in a phase. ``parts``: what each resource would take alone; they overlap."""

    role: str
    work: str
    seconds: float
    parts: dict[str, float]

    @property
    def bound_by(self) -> str:
        """The resource that takes longest; "nothing" where there is no work."""
        return max(self.parts, key=lambda name: self.parts[name], default="nothing")


class Timing:
    """Seconds of every role's work on so many ranks, each computed once."""

    def __init__(self, roles: Roles, hardware: Hardware) -> None:
        self._roles, self._hardware = roles, hardware
        self._known: dict[tuple[str, str, Place], RoleTime] = {}

    @property
    def certainty(self) -> str:
        """What times made of these rates are worth."""
        return self._hardware.rates.certainty

    def of(self, role: str, work: str, place: Place) -> RoleTime:
        """The time of a role's work in one step."""
        key = (role, work, place)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _RoleWork(self._roles, self._hardware, role, place).of(work)
        return found


class _RoleWork:
    """One rank of a role on its hardware."""

    def __init__(self, roles: Roles, hardware: Hardware, role: str, place: Place) -> None:
        recipe, model = roles.recipe, roles.model(role)
        self.recipe, self.hardware, self.role, self.place = recipe, hardware, role, place
        self.sizes, self.engine = roles.sizes(role), model.engine.on(place.ranks)
        self.checkpointing, self.size = model.gradient_checkpointing, BYTES[model.dtype]
        self.fused = model.kernels != "none"
        self.stored = self.sizes.stored(self.size)
        self.trained, self.scalar = role in trained_roles(recipe), roles.is_scalar(role)
        self.reached = hardware.rates
        self.rate = self.reached.arithmetic_float32 if model.dtype == "float32" else self.reached.arithmetic
        self.memory = self.reached.memory
        ring = costs.ring(hardware, *place)
        assert ring is not None, "see why_unknown"
        self.ring, self.joined = ring, "network" if place.nodes > 1 else "links"
        self.shared = self.engine.sequence_parallel
        self.batch = batch_arithmetic(recipe, place.ranks, self.shared, role=role)
        # Under a mask a token is compared with all of its row, with what it does not see too.
        self.attended = self.batch.longest * (self.batch.rows if model.masks_packed_rows else 1)
        self.calls = costs.gather_calls(self.sizes, self.engine.reduce_bucket_size)
        self.reductions = costs.gather_calls(self.sizes.trained, self.engine.reduce_bucket_size)

    def of(self, work: str) -> RoleTime:
        works = {
            "update": self._update, "forward": self._forward, "generate": self._generate,
            "sync weights": self._sync,
        }  # fmt: skip
        return works[work]()

    def _time(self, work: str, seconds: float, parts: Mapping[str, float]) -> RoleTime:
        return RoleTime(self.role, work, seconds, {name: value for name, value in parts.items() if value})

    @property
    def _gather(self) -> float:
        """All parameters once, where they are sharded."""
        return self.ring.seconds(self.stored, self.calls) if self.engine.zero_stage == 3 else 0.0

    @property
    def _fetch(self) -> float:
        """This rank's shard of the parameters from host memory, where they wait there."""
        away = self.engine.zero_stage == 3 and self.engine.offload_parameters == "cpu"
        return self.stored / self.place.ranks / self.reached.host_link if away else 0.0

    def _read(self, tokens: float) -> float:
        """Tokens whose log-probabilities are computed: in RL the responses'."""
        if self.scalar:
            return 0.0
        return tokens * self.recipe.rollout.max_new_tokens / self.batch.longest if is_rl(self.recipe) else tokens

    def _exchanged(self, tokens: float, micro: int, passes: int) -> float:
        """Queries, keys, values and what attention makes of them, between the ranks that share rows, in every layer."""
        if self.shared == 1:
            return 0.0
        width = 2 * self.sizes.head_dim * (self.sizes.heads + self.sizes.kv_heads)
        return self.ring.seconds(passes * self.sizes.layers * tokens * width * self.size, 4 * passes * micro)

    def _update(self) -> RoleTime:
        batch, stage = self.batch, self.engine.zero_stage
        micro, tokens = batch.micro_batches, batch.sequences_per_rank * batch.longest / self.shared
        read = self._read(tokens)
        flops = costs.training_flops(self.sizes, tokens, self.attended, read, checkpointing=self.checkpointing)
        if fused_chunk(self.sizes, read / max(1, micro), gpu=True, fused=self.fused):  # logits are made twice
            flops += costs.forward_flops(self.sizes, 0, batch.longest, read)
        trained = self.sizes.trained.total
        # Stage 2 all-reduces whole gradients where a reduce-scatter would do; stages 0 and 1 wait for the step.
        rounds = {0: 0, 1: 0, 2: 2, 3: 1}[stage]
        scattered = self.ring.seconds(trained * self.size, self.reductions, rounds=rounds)
        gathered = self._gather * (2 if self.sizes.total > costs.MAX_LIVE else 1)
        offloaded = stage >= 1 and self.engine.offload_optimizer == "cpu"
        states = trained / (self.place.ranks if stage >= 1 else 1)
        # Gradients that are added up on the host come back to the GPU for it; others go there once, at the step.
        summed_there = offloaded and (stage == 3 or self.size == 4)
        down = 2 * 4 * states / self.reached.host_link if summed_there else 0.0
        parts = {
            "arithmetic": flops / self.rate,
            self.joined: micro * (gathered + scattered)
            + self._exchanged(tokens, micro, 3 if self.checkpointing else 2),
            "host": micro * (2 * self._fetch + down),
        }
        computing = costs.overlapped(*parts.values())
        ends = self._optimizer_step(int(states), offloaded=offloaded)
        if offloaded and not summed_there:
            ends["host"] += 4 * states / self.reached.host_link
        for name, seconds in ends.items():
            parts[name] = parts.get(name, 0.0) + seconds
        steps = batch.optimizer_steps
        seconds = steps * (computing + sum(ends.values()))
        return self._time("update", seconds, {name: steps * value for name, value in parts.items()})

    def _optimizer_step(self, states: int, *, offloaded: bool) -> dict[str, float]:
        """Seconds after the last backward pass, by resource: the optimizer, and what replicas exchange then."""
        optimizer = optimizer_of(self.recipe, self.role)
        moved = costs.step_bytes(states, self.size, state_bytes(optimizer, self.sizes.trained))
        ends = {}
        if offloaded:
            on_node = -(-self.place.ranks // self.place.nodes)
            ends["host"] = on_node * moved / self.reached.host_memory + states * self.size / self.reached.host_link
        else:
            ends["GPU memory"] = moved / self.memory
        # Gradients all-reduced (two rounds) in float32 at stages 0 and 1, parameters gathered at 1 and 2.
        trained, stage = self.sizes.trained.total, self.engine.zero_stage
        summed = self.ring.seconds(4 * trained, self.reductions, rounds=2 if stage < 2 else 0)
        gathered = self.ring.seconds(trained * self.size, self.reductions, rounds=1 if stage in (1, 2) else 0)
        ends[self.joined] = summed + gathered
        if (matrices := made_orthogonal(optimizer, self.sizes.trained)).tensors:
            # At stage 0 every rank computes all; else one, and each goes there and back in float32.
            sent, number = 4 * matrices.total, sum(one.count for one in matrices.tensors)
            ends[self.joined] += self.ring.seconds(sent, number, rounds=2 if stage else 0)
            ends["arithmetic"] = orthogonal_flops(matrices) / self.rate / (self.place.ranks if stage else 1)
        return ends

    def _forward(self) -> RoleTime:
        batch, unit = self.batch, 1 if is_rl(self.recipe) else unit_size(self.recipe)
        sequences = -(-batch.sequences // unit // max(1, self.place.ranks // self.shared)) * unit
        micro, tokens = -(-sequences // batch.rows), sequences * batch.longest / self.shared
        parts = {
            "arithmetic": costs.forward_flops(self.sizes, tokens, self.attended, self._read(tokens)) / self.rate,
            self.joined: micro * self._gather + self._exchanged(tokens, micro, 1),
            "host": micro * self._fetch,
        }
        passes = 2 if self.role == "value" and self.recipe.algorithm.values_ends() else 1
        seconds = passes * costs.overlapped(*parts.values())
        return self._time("forward", seconds, {name: passes * value for name, value in parts.items()})

    def _generate(self) -> RoleTime:
        """Prompts are read at once, then every token waits for all weights and the cache to be read."""
        rollout, batch, sizes = self.recipe.rollout, self.batch, self.sizes
        rounds = batch.generation_rounds
        rows = -(-batch.sequences // self.place.ranks) / rounds
        prompt = batch.longest - rollout.max_new_tokens
        sharded = rollout.weights == "sharded"
        middle = prompt + rollout.max_new_tokens / 2
        read = self.stored + costs.CACHE_PASSES * costs.cache_bytes(sizes, rows, middle, self.size)
        token = {
            "arithmetic": costs.forward_flops(sizes, rows, middle, rows) / self.rate,
            "GPU memory": read / self.memory,
            "launches": sizes.layers * self.reached.launch,
            self.joined: self._gather if sharded else 0.0,
            "host": self._fetch if sharded else 0.0,
        }
        first = costs.forward_flops(sizes, rows * prompt, prompt, rows) / self.rate
        each = rounds * rollout.max_new_tokens
        on_gpu = max(token["arithmetic"], token["GPU memory"], token["launches"])
        seconds = each * costs.overlapped(on_gpu, token[self.joined], token["host"]) + rounds * first
        parts = {name: each * value for name, value in token.items()}
        parts["arithmetic"] += rounds * first
        return self._time("generate", seconds, parts)

    def _sync(self) -> RoleTime:
        """The weights gathered a bucket at a time and copied into the generator; nothing where it reads the shards."""
        if self.recipe.rollout.weights == "sharded":
            return self._time("sync weights", 0.0, {"GPU memory": 0.0})
        volume = self.sizes.trained.total * self.size  # what is frozen was sent with the first version
        sharded = self.engine.zero_stage == 3
        parts = {
            self.joined: self.ring.seconds(volume, -(-volume // SYNC_BYTES)) if sharded else 0.0,
            "GPU memory": 2 * volume / self.memory,
            "host": self._fetch,
        }
        return self._time("sync weights", sum(parts.values()), parts)
