"""What follows from a recipe: its roles, and each role's model and optimizer with the defaults filled in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from distft.config.data import PAIRED
from distft.config.method import Phase, Work
from distft.config.models import BASES, STARTS, Engine, Model, Reference
from distft.config.optimizers.optimizer import Optimizer, over
from distft.config.recipe import Recipe
from distft.config.reward_servers import JudgeReward, RewardServer
from distft.config.role_table import FURTHER, INHERITING, Role
from distft.config.section import Section

_Section = TypeVar("_Section", bound=Section)


def known_roles(recipe: Recipe) -> tuple[str, ...]:
    """The roles that the algorithm takes, in the order of ``role_table.ROLES``; further reward models, where the recipe
    has any, behind the first."""
    found: list[str] = []
    for role in recipe.algorithm.traits.roles:
        found += [role, *further_rewards(recipe)] if role == "reward" else [role]
    return tuple(found)


def further_rewards(recipe: Recipe) -> tuple[str, ...]:
    """The roles of the reward models beside the first, which is not trained."""
    if "reward" not in recipe.algorithm.traits.roles or "reward" in trained_roles(recipe):
        return ()
    return tuple(f"{FURTHER}{name}" for name in recipe.models.rewards)


def roles(recipe: Recipe) -> tuple[str, ...]:
    """The roles of the run: as ``known_roles``, without the reward model where functions or an environment give the
    scores, and without a reference whose log-probs are kept."""
    without = ("reward",) if not _has_reward_model(recipe) else ()
    if recipe.algorithm.caches_reference():
        without = (*without, "reference")
    return tuple(role for role in known_roles(recipe) if role not in without)


def trained_roles(recipe: Recipe) -> tuple[Role, ...]:
    """The roles that are updated."""
    return recipe.algorithm.traits.trained


def kept_roles(recipe: Recipe) -> tuple[str, ...]:
    """The roles that a checkpoint holds: those that are updated, and a reference that does not stay as it started."""
    renewed = recipe.algorithm.renewal() is not None and "reference" in roles(recipe)
    return (*trained_roles(recipe), *(("reference",) if renewed else ()))


def over_policys_base(recipe: Recipe) -> tuple[str, ...]:
    """The roles with adapters of their own over the policy's base, in its processes; a reference that is that base
    itself has none."""
    able = [role for role in ("reward", "value") if role in roles(recipe)]
    return tuple(role for role in able if recipe.placement.of(role).share == "policy")


def main_role(recipe: Recipe) -> Role:
    """The role whose model is the run's result (``final/``)."""
    return recipe.algorithm.traits.main


def is_rl(recipe: Recipe) -> bool:
    """Whether the algorithm samples its own responses."""
    return recipe.algorithm.traits.sampled


def answers_held_out(recipe: Recipe) -> bool:
    """Whether the policy of a method that learns from given answers is asked for its own, when it is judged."""
    judged = bool(recipe.data.eval or recipe.data.test or recipe.data.holdout)
    if is_rl(recipe) or not recipe.algorithm.traits.answers or not judged:
        return False
    return bool(recipe.evaluation.metrics or recipe.tracking.samples_every)


def answers_in_training(recipe: Recipe) -> bool:
    """Whether the policy of a method that learns from given answers learns from its own, too."""
    return recipe.algorithm.on_policy_share() > 0


def samples_in_training(recipe: Recipe) -> bool:
    """Whether the policy answers prompts of its training."""
    return is_rl(recipe) or answers_in_training(recipe)


def keeps_twin(recipe: Recipe) -> bool:
    """Whether a policy that samples in training does so from a gathered copy of its weights, which stays all along."""
    return samples_in_training(recipe) and recipe.rollout.weights == "gathered"


def imitates_chosen(recipe: Recipe) -> bool:
    """Whether the policy learns the better answer of a pair by itself, without a word about the other."""
    traits = recipe.algorithm.traits
    return traits.unit.name == "sequences" and traits.roles == ("policy",) and not {*PAIRED}.isdisjoint(traits.formats)


def scores_pairs(recipe: Recipe) -> bool:
    """Whether the run's result is a reward model that learns from pairs."""
    traits = recipe.algorithm.traits
    return traits.main == "reward" and traits.unit.name == "pairs"


def num_held_out_answers(recipe: Recipe) -> int:
    """How many answers such a policy gives at most in an evaluation."""
    return recipe.evaluation.max_samples if recipe.evaluation.metrics else recipe.tracking.samples_count


def has_engines(recipe: Recipe) -> bool:
    """Whether responses come from engines beside the policy's ranks; an ``auto`` that nobody has decided is none."""
    return is_rl(recipe) and recipe.rollout.engine == "vllm"


def phases(recipe: Recipe) -> tuple[Phase, ...]:
    """What each role does in a step. Engines generate in the policy's place, and receive what it sends; with
    ``rollout.overlap`` they generate beside the update. Further reward models do what the first does."""
    said = recipe.algorithm.traits.phases
    if further := further_rewards(recipe):
        said = tuple(replace(phase, works=tuple(_with_further(phase.works, further))) for phase in said)
    if not has_engines(recipe):
        return said
    found = [replace(phase, works=tuple(_with_engines(phase.works))) for phase in said]
    if not recipe.rollout.overlap:
        return tuple(found)
    generating = [work for phase in found for work in phase.works if work.does == "generate"]
    others = [replace(phase, works=tuple(work for work in phase.works if work not in generating)) for phase in found]
    updated = {work for phase in found for work in phase.works if work.does == "update"}
    return tuple(
        replace(phase, works=(*phase.works, *generating)) if updated & set(phase.works) else phase
        for phase in others if phase.works
    )  # fmt: skip


def _with_further(works: Sequence[Work], further: Sequence[str]) -> Iterator[Work]:
    for work in works:
        yield work
        if work.role == "reward":
            yield from (replace(work, role=role) for role in further)


def _with_engines(works: Sequence[Work]) -> Iterator[Work]:
    for work in works:
        if work.does != "generate":
            yield work
        if work.does in ("generate", "sync weights"):
            yield replace(work, role="rollout")


def unit_size(recipe: Recipe) -> int:
    """Sequences that must stay in one micro-batch, at most: 2 for pairs, more for rankings, else 1."""
    return recipe.algorithm.unit_rows()


def longest_sequence(recipe: Recipe) -> int:
    """Positions of the longest sequence that the run can meet: virtual tokens stand before its own."""
    policy = recipe.models.policy
    return longest_text(recipe) + (0 if policy is None else policy.num_virtual_tokens)


def longest_text(recipe: Recipe) -> int:
    """Tokens of the longest prompt and its answer."""
    if is_rl(recipe):
        return recipe.data.max_prompt_length + recipe.rollout.max_new_tokens
    return sum(recipe.algorithm.sides(recipe.data))


def longest_sides(recipe: Recipe) -> tuple[int, int]:
    """Positions of the longest prompt, virtual tokens before it, and of the longest answer, where a model reads them
    apart."""
    virtual = longest_sequence(recipe) - longest_text(recipe)
    if is_rl(recipe):
        return recipe.data.max_prompt_length + virtual, recipe.rollout.max_new_tokens
    prompt, answer = recipe.algorithm.sides(recipe.data)
    return prompt + virtual, answer


def samples_per_step(recipe: Recipe) -> int:
    """Sequences of one step over all ranks, at most: sft rows, 2 a pair, prompts times samples in RL."""
    per_unit = recipe.rollout.samples_per_prompt if is_rl(recipe) else unit_size(recipe)
    return recipe.train.global_batch_size * per_unit


def reward_functions(recipe: Recipe) -> tuple[str, ...]:
    """The reward functions, ``module:function``."""
    return recipe.models.reward.functions if recipe.models.reward else ()


def reward_servers(recipe: Recipe) -> dict[str, RewardServer]:
    """The servers that give scores, judges too, by their keys in the recipe."""
    return recipe.models.reward.servers if recipe.models.reward else {}


def judge_compares(recipe: Recipe, judge: JudgeReward) -> bool:
    """Whether it compares the answers to a prompt, or rates each alone."""
    if judge.asks is None:
        return recipe.algorithm.traits.sampled and recipe.algorithm.unit_rows() > 1
    return judge.asks == "comparisons"


def judges_asked(recipe: Recipe, num_prompts: int) -> Iterator[tuple[str, JudgeReward, int]]:
    """(key, judge, how many questions the answers to so many prompts have for it at most: those on equal answers are
    not asked twice)."""
    samples = recipe.rollout.samples_per_prompt
    for key, one in reward_servers(recipe).items():
        if isinstance(one, JudgeReward):
            yield key, one, num_prompts * samples * (samples - 1 if judge_compares(recipe, one) else 1)


def model_of(recipe: Recipe, role: str) -> Model:
    """The role's model with every default filled in.

    reference: starts where the policy starts; value: where the reward model does, or without one, or over the policy's
    base, the policy (where the reward model's tokenizer turns out not to be the policy's, the value worker starts from
    the policy too and says so). Both take from the policy what they do not say themselves; a reward model over its base
    what the two must have in common.

    Raises KeyError for a role that the run does not have.
    """
    if role not in roles(recipe):
        raise KeyError(role)
    given: Model | None = recipe.models.of(role)
    if role in INHERITING:
        given = _inherited(recipe, given, role)
    if given is None:
        raise KeyError(role)
    if role == "reward" and role in over_policys_base(recipe) and recipe.models.policy is not None:
        given = _over_base(recipe.models.policy, given)
    if given.optimizer is not None and role in trained_roles(recipe):
        return given.model_copy(update={"optimizer": optimizer_of(recipe, role)})
    return given


def optimizer_of(recipe: Recipe, role: str) -> Optimizer:
    """The role's optimizer: its own keys over the recipe's. Raises KeyError for a role that is not trained."""
    if role not in trained_roles(recipe):
        raise KeyError(role)
    model: Model | None = recipe.models.of(role)
    own = model.optimizer if model else None
    return recipe.optimizer if own is None else over(recipe.optimizer, own)


def resolved(recipe: Recipe) -> Recipe:
    """The same run with inherited settings written out, so that a dump of it means the same when read again.

    Models that are not given stay so: their start is found when the run starts.
    """
    models: dict[str, Model] = {}
    for role in known_roles(recipe):
        given: Model | None = recipe.models.of(role)
        if given is None:
            continue
        full = model_of(recipe, role) if role in roles(recipe) else given
        models[role] = full.model_copy(update={name: getattr(given, name) for name in STARTS})
    return recipe.model_copy(update={"models": recipe.models.having(models)})


def _has_reward_model(recipe: Recipe) -> bool:
    reward = recipe.models.reward
    if "reward" in trained_roles(recipe):
        return True
    if recipe.rollout.environment is not None:
        return False
    if reward is None:
        return True
    return bool(reward.path or reward.init or not reward.texts_are_scored)


def _inherited(recipe: Recipe, given: Model | None, role: str) -> Model | None:
    """What the role's section says, the rest from the policy; the start too, where it names none."""
    policy, reward = recipe.models.policy, recipe.models.reward
    if policy is None:
        return given
    fields = {name: getattr(policy, name) for name in Model.model_fields} | {"optimizer": None}
    if role == "reference":
        fields |= {"engine": frozen(policy.engine), "gradient_checkpointing": False, "peft": None}
    own = {} if given is None else {name: getattr(given, name) for name in given.model_fields_set}
    if isinstance(engine := own.get("engine"), Engine):
        own["engine"] = _engine(fields["engine"], engine)
    if given is not None and (given.path or given.init):
        start: Model = given
        own.setdefault("trust_remote_code", given.path == policy.path and policy.trust_remote_code)
    else:
        of_reward = role == "value" and role not in over_policys_base(recipe) and _has_reward_model(recipe)
        start = reward if of_reward and reward is not None else policy
        own.setdefault("trust_remote_code", start.trust_remote_code)
    own.setdefault("chat_template", start.chat_template)
    fields |= own | {name: getattr(start, name) for name in STARTS}
    kind = Reference if role == "reference" else Model
    return kind.model_construct(_fields_set=set(fields), **fields)


def _over_base(policy: Model, own: Model) -> Model:
    """A frozen model over the policy's base computes as that does, unless it says otherwise (which is refused)."""
    taken = {name: getattr(policy, name) for name in BASES if name not in own.model_fields_set}
    if "engine" in taken:
        taken["engine"] = frozen(policy.engine)
    return own.model_copy(update=taken)


def frozen(engine: Engine) -> Engine:
    """A model without gradients is whole on each rank or fully sharded; it has no optimizer state."""
    stage = 3 if engine.zero_stage == 3 else 0
    return engine.model_copy(update={"zero_stage": stage, "offload_optimizer": "none"})


def _engine(base: Engine, own: Engine) -> Engine:
    """``own`` over ``base``, without those of ``base``'s offloads and second shards that the stage rules out."""
    merged, ruled_out = _over(base, own), dict[str, Any]()
    if merged.zero_stage != 3:
        ruled_out |= {"offload_parameters": "none", "hpz_partition_size": 1}
    if merged.zero_stage == 0:
        ruled_out["offload_optimizer"] = "none"
    return merged.model_copy(update={key: no for key, no in ruled_out.items() if key not in own.model_fields_set})


def _over(base: _Section, own: _Section) -> _Section:
    """``own``, its unset fields taken from ``base``."""
    return base.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
