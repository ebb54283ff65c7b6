"""From a recipe's roles to bytes on each kind of GPU and node: who holds what, and is there room?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distft.common.errors import UserError
from distft.config.adapters.selective import OwnWeights
from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.config.engines import ENGINES
from distft.config.load import resolve_path
from distft.config.models import Model
from distft.config.new_tokens import new_tokens
from distft.config.optimizers.muon import Muon
from distft.config.optimizers.optimizer import Optimizer
from distft.config.recipe import Recipe
from distft.config.roles import (
    answers_held_out,
    answers_in_training,
    has_engines,
    is_rl,
    keeps_twin,
    model_of,
    num_held_out_answers,
    optimizer_of,
    over_policys_base,
    trained_roles,
    unit_size,
)
from distft.models.families.table import family_of
from distft.planning.adapted_sizes import WrongTargets, with_adapters, with_selected, with_virtual_tokens
from distft.planning.batch_arithmetic import batch_arithmetic
from distft.planning.encoder_decoders import with_value_start
from distft.planning.generation import engine_items
from distft.planning.liger import has_liger, why_no_liger
from distft.planning.lora_folder import lora_beside
from distft.planning.memory import (
    Compute,
    Generation,
    Item,
    When,
    Work,
    activation_items,
    at_rest,
    copies_in_memory,
    copy_of_checkpoint,
    held_beside,
    peak,
    rank_items,
)
from distft.planning.model_folders import local_folder
from distft.planning.model_sizes import Head, ModelSizes
from distft.planning.optimizer_states import kept_bytes, made_orthogonal, orthogonal_bytes, state_bytes, update_bytes
from distft.planning.routing import routing_items
from distft.planning.size_sources import sizes_from_init, sizes_from_path
from distft.planning.teaching import student_items, teacher_items
from distft.planning.weight_files import tensor_shapes

# What stays on the GPU while a group sleeps: the engine moves its own states, the process and its generator stay.
STAYS = ("process", "generation twin")
# What is let go of in a sleep: between steps there are no gradients to keep.
LET_GO = ("gradients", "gradients cut by a boundary")
# Float32 numbers of an anchor and a candidate that ``losses.contrastive`` holds at once: cosines, logits with and
# without what is left out, the softmax and its gradient; the masks beside them are less than one more.
COSINES = 6
# What only a step needs: it sleeps and wakes by itself.
STATES = ("master weights", "optimizer states")


@dataclass(frozen=True)
class RoleMemory:
    """What one rank of a role holds, and the bytes that a checkpoint has of what it trains (``kept``). ``unknown`` says
    why nothing is known of it; then there are no items."""

    items: tuple[Item, ...]
    parameters: int = 0
    trained: int = 0
    kept: int = 0
    unknown: str = ""

    @property
    def counted(self) -> str:
        """``8,072.2 M``, below a million ``45,728``; where a part is trained ``8,072.2 M (41.9 M trained, 0.52 %)``."""
        whole = _millions(self.parameters)
        if not 0 < self.trained < self.parameters:
            return whole
        return f"{whole} ({_millions(self.trained)} trained, {100 * self.trained / self.parameters:.2g} %)"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,}"


@dataclass(frozen=True)
class GroupMemory:
    """One rank of a group, summed up: on its GPU ``awake`` at the fullest moment and while it is ``asleep``; in host
    memory meanwhile its ``weights``, and the ``states`` that only a step needs. What is ``frozen`` goes there once.
    ``node``: what it holds of the node's memory by moment.
    """

    awake: int
    asleep: int
    weights: int
    states: int
    frozen: bool
    node: Mapping[When, int]

    @property
    def waiting(self) -> int:
        """Bytes that wait in host memory while all of it sleeps."""
        return self.weights + self.states

    @property
    def resting(self) -> int:
        """Bytes of its GPU while it keeps nothing but its weights."""
        return self.asleep + self.weights


class SizeBook:
    """The sizes of every model of a run, each read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Head], ModelSizes | UserError] = {}

    def sizes_of(self, model: Model, head: Head) -> ModelSizes:
        """The sizes of a model with that head, and of adapters and quantization.

        Raises UserError where they are not to be found on this machine.
        """
        key = (repr((model.path, model.init, model.extend_vocabulary, model.quantization, model.peft)), head)
        if key not in self._known:
            try:
                sizes = sizes_from_init(model.init) if model.init else sizes_from_path(resolve_path(str(model.path)))
                if model.extend_vocabulary is not None:
                    sizes = sizes.with_tokens(len(new_tokens(model.extend_vocabulary, "extend_vocabulary")))
                sizes = sizes.with_head(head)
                sizes = sizes.quantized(model.quantization) if model.quantization else sizes
                self._known[key] = _with_adapter(sizes, model)
            except UserError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, UserError):
            raise found
        return found


def _with_adapter(sizes: ModelSizes, model: Model) -> ModelSizes:
    """The same model, of which only what its adapter says is trained. Raises UserError where that cannot be told."""
    if model.peft is None:
        return sizes
    if isinstance(model.peft, VirtualTokens):
        return with_virtual_tokens(sizes, model.peft)
    if not isinstance(model.peft, OwnWeights):
        return with_adapters(sizes, model.peft)
    path = resolve_path(str(model.path))
    folder = local_folder(path)
    if folder is None:
        hint = "fetch it first, or give a folder with its weights"
        raise UserError("is not on this machine, so the names of its weights are not known", where=path, hint=hint)
    return with_selected(sizes, model.peft, tensor_shapes(folder))


class Roles:
    """What is the same of a role however many ranks it has: its model's section and its model's sizes."""

    def __init__(self, recipe: Recipe, book: SizeBook) -> None:
        self.recipe, self._book = recipe, book
        self._models: dict[str, Model] = {}

    def model(self, role: str) -> Model:
        """The role's model with every default filled in; the policy's, for the engines that generate. Of a reward model
        over the policy's base with the adapter that lies beside it. Raises UserError where there is none."""
        if role not in self._models:
            named = "policy" if role == ENGINES else role
            model = with_value_start(self.recipe) if role == "value" else model_of(self.recipe, named)
            if role == "reward" and self.is_lent_a_base(role):
                finished = lora_beside(resolve_path(str(model.path)), f"models.{role}.path")
                model = model.model_copy(update={"peft": finished.lora})
            self._models[role] = model
        return self._models[role]

    def is_lent_a_base(self, role: str) -> bool:
        """Whether its adapters lie over the policy's base."""
        return role in over_policys_base(self.recipe)

    def sizes(self, role: str) -> ModelSizes:
        """The sizes of the role's model. Raises UserError where they are not to be found, WrongTargets."""
        try:
            return self._book.sizes_of(self.model(role), self._head(role))
        except WrongTargets as error:
            key = error.where or ("train" if isinstance(self.model(role).peft, OwnWeights) else "target_modules")
            raise WrongTargets(error.what, where=f"models.{role}.peft.{key}", hint=error.hint) from None

    def is_scalar(self, role: str) -> bool:
        """Whether it says a number, or a vector, and not how likely each token of the vocabulary is."""
        return self._head(role) != "vocabulary"

    def _head(self, role: str) -> Head:
        if self.recipe.algorithm.traits.embeds:
            return "none"
        return "score" if role != ENGINES and family_of(role).scalar else "vocabulary"


def role_memory(roles: Roles, role: str, ranks: int, *, gpu: bool, shared: bool, nodes: int = 1) -> RoleMemory:
    """The items of one rank of a role on ``ranks`` ranks; a role in another's group adds no model of its own, or what
    lies over its base."""
    model = roles.model(role)
    try:
        sizes = roles.sizes(role)
    except UserError as error:
        if (model.path or "").startswith("run:") or isinstance(error, WrongTargets):
            raise
        return RoleMemory((), unknown=str(error).replace("\n  ", "; "))
    if role == ENGINES:
        return RoleMemory(tuple(engine_items(roles.recipe, sizes, ranks, gpu=gpu)), sizes.total)
    if model.kernels == "liger" and (missing := why_no_liger(sizes.family, gpu=gpu)):
        where, hint = f"models.{role}.kernels", "kernels: auto takes Liger's where they can be had"
        raise UserError(missing, where=where, hint=hint)
    compute, work = _compute(roles.recipe, role, model, sizes, gpu=gpu), _work(roles, role, ranks)
    lent = shared and roles.is_lent_a_base(role)
    if shared and not lent:
        frozen = replace(compute, trained=False)
        return RoleMemory(tuple(activation_items(sizes, frozen, work)), sizes.total)
    more = _told_items(roles.recipe, role, sizes, work, ranks, gpu=gpu)
    if role == "policy" and roles.recipe.rollout.router_replay:
        batch = batch_arithmetic(roles.recipe, ranks)
        more += routing_items(sizes, work, -(-batch.sequences // ranks) * batch.longest)
    if compute.trained and roles.recipe.algorithm.embedding_noise():  # in float32, and as it is added
        more.append(Item("noise on the embeddings", work.tokens * sizes.hidden * (4 + compute.size), "training"))
    if roles.recipe.algorithm.traits.embeds:  # on every rank, of all texts of a step
        units, texts = roles.recipe.train.global_batch_size, unit_size(roles.recipe) - 1
        more.append(Item("cosines of all texts", COSINES * 4 * units * units * texts, "training"))
    engine, trained, kept = model.engine.on(ranks), 0, 0
    if compute.trained:
        trained, optimizer = sizes.trained.total, optimizer_of(roles.recipe, role)
        sharded, buffers = int(trained * (4 + kept_bytes(optimizer, sizes.trained))), held_beside(sizes, compute)
        kept = sharded + buffers
        if roles.recipe.checkpoint.asynchronous:
            more.append(copy_of_checkpoint(sharded, buffers, ranks, gpu=gpu))
        if roles.recipe.checkpoint.memory_every:
            more.append(copies_in_memory(sharded, buffers, ranks, nodes=nodes))
        where = "optimizer" if model.optimizer is None else f"models.{role}.optimizer"
        more += _step_items(optimizer, where, sizes, ranks if engine.zero_stage else 1)
    items = rank_items(sizes, engine, compute, work, ranks, more, lent=lent)
    return RoleMemory(tuple(items), sizes.total, trained, kept)


def _step_items(optimizer: Optimizer, where: str, sizes: ModelSizes, sharing: int) -> list[Item]:
    """What the optimizer, which is said at ``where``, holds during a step only; so many ranks share its states. Raises
    UserError for a Muon without matrices."""
    matrices = made_orthogonal(optimizer, sizes.trained)
    if isinstance(optimizer, Muon) and not matrices.tensors:
        what = "muon makes matrices of the layers orthogonal, and this role trains none: adamw does the rest"
        raise UserError(what, where=f"{where}.name", hint=f"{where}.name=adamw")
    return [
        Item("matrices made orthogonal", orthogonal_bytes(matrices, sharing), "step"),
        Item("update of the largest tensor", update_bytes(optimizer, sizes.trained), "step"),
    ]


def _told_items(recipe: Recipe, role: str, sizes: ModelSizes, work: Work, ranks: int, *, gpu: bool) -> list[Item]:
    """What teacher and policy hold of a teacher's distributions, of a method that has a teacher."""
    telling = recipe.algorithm.telling()
    if telling is None or role not in ("policy", "teacher"):
        return []
    batch = batch_arithmetic(recipe, ranks)
    data, judged = recipe.data, 0
    if data.eval or data.test or data.holdout:
        judged = -(-recipe.evaluation.max_samples // ranks) * batch.longest
    share = -(-batch.sequences // ranks) * batch.longest
    if role == "teacher":
        return teacher_items(telling, sizes.vocab, share, judged, work.read)
    most = max(share, judged)
    return student_items(telling, sizes, most, work.read, dtype=model_of(recipe, role).dtype, gpu=gpu)


def group_memory(*roles: Sequence[Item], gpu: bool) -> GroupMemory:
    """The items of a group's roles, summed up. They work one after the other: of what each holds for a time the largest
    is there at once."""
    items = [item for its in roles for item in its]
    on_device = [item for item in items if item.place == "device"]
    always = [item for item in on_device if item.when == "always"]
    asleep = sum(item.bytes for item in always if item.name in STAYS)
    node: dict[When, int] = {}
    for its in roles:
        mine: dict[When, int] = {}
        for item in its:
            if item.place == "host" or not gpu:
                mine[item.when] = mine.get(item.when, 0) + item.bytes
        for when, held in mine.items():
            before = node.get(when, 0)
            node[when] = before + held if when == "always" else max(before, held)
    waiting = sum(item.bytes for item in always if item.name not in (*STAYS, *LET_GO))
    states = sum(item.bytes for item in always if item.name in STATES)
    frozen = not any(item.name == "gradients" for item in items)
    passing = max((peak(its, "device") - at_rest(its, "device") for its in roles), default=0)
    awake = at_rest(on_device, "device") + passing
    return GroupMemory(awake, asleep, waiting - states, states, frozen, node)


def needed_in_turns(groups: Sequence[GroupMemory]) -> int:
    """A GPU whose groups sleep in turn: one awake, of the others what stays there."""
    asleep = sum(group.asleep for group in groups)
    return asleep + max(group.awake - group.asleep for group in groups)


def _compute(recipe: Recipe, role: str, model: Model, sizes: ModelSizes, *, gpu: bool) -> Compute:
    trained = role in trained_roles(recipe)
    return Compute(
        dtype=model.dtype,
        trained=trained,
        state_bytes=state_bytes(optimizer_of(recipe, role), sizes.trained) if trained else 0,
        checkpointing=model.gradient_checkpointing,
        eager_attention=model.attention == "eager",
        gpu=gpu,
        fused=model.kernels != "none",
        liger=has_liger(sizes.family, model.kernels, gpu=gpu),
    )


def _work(roles: Roles, role: str, ranks: int) -> Work:
    """The largest micro-batch: rows of the longest length up to the token cap; packed rows under a mask count as one
    row of that many tokens. In RL only responses are read."""
    recipe, shared = roles.recipe, roles.model(role).engine.sequence_parallel
    batch = batch_arithmetic(recipe, ranks, shared, role=role)
    everything = -(-batch.sequences // ranks)
    sequences = batch.sequences_per_rank if role in trained_roles(recipe) else everything * shared
    rows = min(batch.rows, sequences)
    tokens = min(recipe.train.max_tokens_per_rank, -(-sequences * batch.longest // shared))
    read, generation = tokens, None
    if is_rl(recipe):
        read = min(tokens, rows * recipe.rollout.max_new_tokens)
        if role == "policy" and not has_engines(recipe):
            at_once = min(recipe.rollout.max_batch_per_rank, everything)
            generation = Generation(at_once, batch.longest, keeps_twin(recipe))
    elif role == "policy" and (answers_held_out(recipe) or answers_in_training(recipe)):
        judged = num_held_out_answers(recipe) if answers_held_out(recipe) else 0
        asked = max(judged, batch.sequences if answers_in_training(recipe) else 0)
        at_once = min(recipe.rollout.max_batch_per_rank, -(-asked // ranks))
        longest = batch.longest + (recipe.rollout.max_new_tokens if judged else 0)
        generation = Generation(at_once, longest, keeps_twin(recipe))
    scalar = roles.is_scalar(role)
    model = roles.model(role)
    length = tokens if model.masks_packed_rows else batch.longest
    return Work(
        tokens=tokens, length=length, read=read, scalar=scalar, generation=generation, masked=model.masks_packed_rows,
        parted=model.parts_packed_rows,
    )  # fmt: skip
