"""Every rule between fields, in one place. Bounds of single fields stand with the fields.

Each rule is a pure function of the recipe that yields what is wrong. Rules look at values only, never at
whether a value was written down, so that a resolved recipe is right exactly when its source is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from distft.common.errors import nearest
from distft.config import roles as facts
from distft.config.algorithms import Dpo, Ppo, Sft
from distft.config.data import Source
from distft.config.models import Init, Model, Reference, RewardModel
from distft.config.problems import Problem, report
from distft.config.recipe import Recipe
from distft.config.training import ROLES, RolePlacement
from distft.config.yaml_file import KeyPath, Tree

_Problems = Iterator[Problem]


def violations(recipe: Recipe) -> list[Problem]:
    """Everything in the recipe that does not go together."""
    return [problem for rule in _RULES for problem in rule(recipe)]


def check(recipe: Recipe) -> None:
    """Raises one UserError (exit status 2) that lists every violated rule."""
    if problems := violations(recipe):
        raise report(problems, Tree(None))


def _names(recipe: Recipe) -> _Problems:
    scheme = recipe.output_dir.split(":", 1)[0]
    if scheme in ("run", "builtin") and ":" in recipe.output_dir:
        yield _problem("output_dir", f"must be a folder, not {scheme}:...", recipe.output_dir.split(":", 1)[1])
    elif not recipe.output_dir.strip():
        yield _problem("output_dir", "must not be empty", f"for example output_dir: runs/{recipe.name}")
    resume = recipe.checkpoint.resume
    close = nearest(resume.lower(), ["auto", "never"])
    if close and resume != close:
        yield _problem("checkpoint.resume", f"{resume} is neither auto, never nor a folder", f"did you mean {close}?")
    elif not resume.strip():
        yield _problem("checkpoint.resume", "must not be empty", "auto, never, or a checkpoint's folder")


def _length_of_run(recipe: Recipe) -> _Problems:
    train = recipe.train
    if train.steps is None and train.epochs is None:
        yield _problem("train", "says neither steps nor epochs", "add steps: 100 or epochs: 1")
    if train.steps is not None and train.epochs is not None:
        yield _problem("train.epochs", "is given beside train.steps", "keep one of the two")
    if train.steps is None:
        return
    if not facts.is_rl(recipe):
        for where, steps in _warmups(recipe):
            if steps >= train.steps:
                yield _problem(
                    where,
                    f"{steps} steps of warm-up leave none of train.steps: {train.steps}",
                    f"at most {train.steps - 1}",
                )
    algorithm = recipe.algorithm
    if isinstance(algorithm, Ppo) and algorithm.value_warmup_steps >= train.steps:
        yield _problem(
            "algorithm.value_warmup_steps",
            f"the policy would never be trained in {train.steps} iterations",
            f"at most {train.steps - 1}",
        )


def _warmups(recipe: Recipe) -> Iterator[tuple[str, int]]:
    yield "optimizer.warmup_steps", recipe.optimizer.warmup_steps
    for role in facts.trained_roles(recipe):
        model: Model | None = getattr(recipe.models, role)
        if model is not None and model.optimizer is not None:
            yield f"models.{role}.optimizer.warmup_steps", model.optimizer.warmup_steps


def _which_models(recipe: Recipe) -> _Problems:
    kind, taken = recipe.algorithm.kind, facts.known_roles(recipe)
    listed = f"{kind} takes: {', '.join(taken)}"
    for role in ROLES:
        given = getattr(recipe.models, role)
        if given is not None and role not in taken:
            yield _problem(f"models.{role}", f"{kind} has no {role} model", f"{listed}; remove it")
        if getattr(recipe.placement, role) != RolePlacement() and role not in taken:
            yield _problem(f"placement.{role}", f"{kind} has no role {role}", f"{listed}; remove it")
    for role in taken:
        if getattr(recipe.models, role) is None and role not in ("reference", "value"):
            yield _problem(f"models.{role}", f"is missing: {kind} needs it", _start_hint(role))


def _starts(recipe: Recipe) -> _Problems:
    for role in facts.known_roles(recipe):
        model: Model | None = getattr(recipe.models, role)
        if model is None:
            continue
        at = f"models.{role}"
        if model.path is not None and model.init is not None:
            yield _problem(f"{at}.init", f"is given beside {at}.path", "keep one of the two")
        if model.path is None and model.init is None and not _may_start_elsewhere(recipe, role, model):
            yield _problem(at, "has neither path nor init", _start_hint(role))
        if model.path is not None:
            yield from _path(recipe, at, model.path)
        elif model.trust_remote_code and (model.init is not None or role not in ("reference", "value")):
            yield _problem(f"{at}.trust_remote_code", "needs a path: there is no remote code without one", "remove it")


def _may_start_elsewhere(recipe: Recipe, role: str, model: Model) -> bool:
    by_functions = isinstance(model, RewardModel) and bool(model.functions) and recipe.algorithm.kind != "reward"
    return role in ("reference", "value") or by_functions


def _path(recipe: Recipe, at: str, path: str) -> _Problems:
    if path.startswith("builtin:"):
        yield _problem(
            f"{at}.path", "builtin: names embedded data, not models", "a hub name, a folder or run:<output_dir>"
        )
    if path.startswith("run:"):
        run = path.removeprefix("run:")
        if not run.strip():
            yield _problem(f"{at}.path", "run: names no run folder", "for example run:runs/sft-tiny")
        elif run.rstrip("/").removeprefix("./") == recipe.output_dir.rstrip("/").removeprefix("./"):
            yield _problem(f"{at}.path", "the run would start from its own result", "change output_dir or the path")
        elif run.rstrip("/").endswith("/final"):
            yield _problem(
                f"{at}.path", "run: takes the run folder", f"write run:{run.rstrip('/').removesuffix('/final')}"
            )
    if not path.strip():
        yield _problem(f"{at}.path", "must not be empty", "a hub name, a folder or run:<output_dir>")


def _initial_sizes(recipe: Recipe) -> _Problems:
    longest = facts.longest_sequence(recipe)
    for role in facts.known_roles(recipe):
        model: Model | None = getattr(recipe.models, role)
        if model is None or model.init is None:
            continue
        at, init = f"models.{role}.init", model.init
        yield from _heads(at, init)
        if longest > init.max_positions:
            yield _problem(
                f"{at}.max_positions",
                f"{init.max_positions} is less than {_said_longest(recipe)}",
                f"at least {longest}",
            )
    yield from _same_vocabulary(recipe)


def _heads(at: str, init: Init) -> _Problems:
    if init.hidden_size % init.num_heads:
        near = max(init.hidden_size // init.num_heads, 1) * init.num_heads
        yield _problem(
            f"{at}.hidden_size",
            f"{init.hidden_size} does not divide by num_heads {init.num_heads}",
            f"for example {near}",
        )
    elif (init.hidden_size // init.num_heads) % 2:
        yield _problem(
            f"{at}.num_heads",
            f"a head of {init.hidden_size // init.num_heads} is odd: rotary positions need an even size",
            f"hidden_size {init.num_heads * (init.hidden_size // init.num_heads + 1)}",
        )
    if init.num_heads % init.key_value_heads:
        fits = [n for n in range(1, init.num_heads + 1) if init.num_heads % n == 0]
        yield _problem(
            f"{at}.num_kv_heads",
            f"num_heads {init.num_heads} does not divide by {init.key_value_heads}",
            f"one of: {', '.join(map(str, fits))}",
        )


def _same_vocabulary(recipe: Recipe) -> _Problems:
    """A reference or value model scores the policy's tokens, so it has the policy's vocabulary."""
    policy = recipe.models.policy
    for role in ("reference", "value"):
        model: Model | None = getattr(recipe.models, role)
        if policy is None or policy.init is None or model is None or model.init is None:
            continue
        if model.init.vocab_size != policy.init.vocab_size:
            yield _problem(
                f"models.{role}.init.vocab_size",
                f"{model.init.vocab_size} differs from the policy's: the {role} reads the policy's tokens",
                f"{policy.init.vocab_size}",
            )


def _precision_and_engine(recipe: Recipe) -> _Problems:
    trained = facts.trained_roles(recipe)
    for role in facts.roles(recipe):
        if getattr(recipe.models, role) is None:
            continue
        model = facts.model_of(recipe, role)
        at, engine = f"models.{role}", model.engine
        if model.attention == "flash_attention_2" and model.dtype == "float32":
            yield _problem(f"{at}.attention", "flash_attention_2 does not run in float32", "sdpa, or dtype: bfloat16")
        if engine.offload_parameters == "cpu" and engine.zero_stage != 3:
            yield _problem(
                f"{at}.engine.offload_parameters", f"needs zero_stage 3, not {engine.zero_stage}", "zero_stage: 3"
            )
        if engine.offload_optimizer == "cpu" and engine.zero_stage == 0:
            yield _problem(f"{at}.engine.offload_optimizer", "needs sharded optimizer state", "zero_stage: 1, 2 or 3")
        if role not in trained:
            yield from _frozen(at, model)


def _frozen(at: str, model: Model) -> _Problems:
    if model.optimizer is not None:
        yield _problem(f"{at}.optimizer", "this model is frozen: it has no optimizer", "remove it")
    if model.gradient_checkpointing:
        yield _problem(f"{at}.gradient_checkpointing", "this model is frozen: it has no backward pass", "remove it")
    if model.engine.offload_optimizer == "cpu":
        yield _problem(f"{at}.engine.offload_optimizer", "this model is frozen: it has no optimizer", "remove it")
    if model.engine.zero_stage in (1, 2):
        yield _problem(
            f"{at}.engine.zero_stage",
            f"{model.engine.zero_stage} shards what a frozen model does not have",
            "0 (whole on every rank) or 3 (sharded)",
        )


def _reference(recipe: Recipe) -> _Problems:
    reference, policy = recipe.models.reference, recipe.models.policy
    if reference is None or policy is None or "reference" not in facts.known_roles(recipe):
        return
    full = facts.model_of(recipe, "reference")
    same = (full.path, full.init) == (policy.path, policy.init)
    if isinstance(reference, Reference) and reference.differs:
        if same and full.dtype == policy.dtype:
            yield _problem(
                "models.reference.differs", "says true, but the reference is the policy's start", "remove it"
            )
        return
    if not same:
        given = "path" if reference.path else "init"
        yield _problem(
            f"models.reference.{given}",
            "the reference is not the policy's start",
            "remove it, or say models.reference.differs: true if that is meant",
        )
    elif full.dtype != policy.dtype:
        yield _problem(
            "models.reference.dtype",
            f"{full.dtype} differs from the policy's {policy.dtype}: their log-probabilities would differ at step 0",
            f"{policy.dtype}, or differs: true",
        )


def _reward(recipe: Recipe) -> _Problems:
    reward = recipe.models.reward
    if reward is None or "reward" not in facts.known_roles(recipe):
        return
    trained = recipe.algorithm.kind == "reward"
    for function in reward.functions:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", function):
            yield _problem(
                "models.reward.functions", f"{function} is not module:function", "for example my_rewards:brevity"
            )
    if len(set(reward.functions)) < len(reward.functions):
        yield _problem("models.reward.functions", "names a function twice", "give it a larger weight instead")
    if reward.weights is not None and len(reward.weights) != len(reward.functions):
        yield _problem(
            "models.reward.weights",
            f"has {len(reward.weights)} numbers for {len(reward.functions)} functions",
            "one number per function",
        )
    if trained:
        wrong = {"functions": reward.functions, "label": reward.label, "score": reward.score != "logit"}
        for key in [key for key, value in wrong.items() if value]:
            yield _problem(
                f"models.reward.{key}", "is for rewarding with a finished model; here it is trained", "remove it"
            )
        return
    if reward.score == "probability" and reward.label is None:
        yield _problem("models.reward.score", "a probability is that of a label, and none is named", "add label: ...")
    if reward.label is not None and reward.path is None:
        yield _problem("models.reward.label", "names a label of a classifier, but there is no path", "add path: ...")
    if reward.weight != 1 and not reward.functions:
        yield _problem(
            "models.reward.weight", "has no effect: there is no function to weigh the model against", "remove it"
        )
    elif reward.weight == 0 and (reward.path or reward.init):
        yield _problem(
            "models.reward.weight", "at 0 the reward model would count for nothing", "remove its path or init"
        )


def _placement(recipe: Recipe) -> _Problems:
    present = facts.roles(recipe)
    for role in present:
        place = recipe.placement.of(role)
        if place.with_ is not None and place.share is not None:
            yield _problem(
                f"placement.{role}.share", "is given beside with", "share: one group; with: two, taking turns"
            )
            continue
        word, other = ("with", place.with_) if place.with_ is not None else ("share", place.share)
        if other is None:
            continue
        at = f"placement.{role}.{word}"
        if other == role:
            yield _problem(at, "names the role itself", f"one of: {', '.join(r for r in present if r != role)}")
        elif other not in present:
            yield _problem(
                at, f"this run has no {other} group", f"one of: {', '.join(r for r in present if r != role)}"
            )
        else:
            yield from _neighbour(recipe, role, word, other)


def _neighbour(recipe: Recipe, role: str, word: str, other: str) -> _Problems:
    place, host = recipe.placement.of(role), recipe.placement.of(other)
    beyond = host.with_ or host.share
    if beyond == role:
        if ROLES.index(role) > ROLES.index(other):  # said once, not from both ends
            yield _problem(
                f"placement.{role}.{word}", f"and placement.{other} point at each other", "keep one of the two"
            )
    elif beyond is not None:
        yield _problem(f"placement.{role}.{word}", f"{other} itself lives with {beyond}", f"write {word}: {beyond}")
    if place.ranks != "auto" and place.ranks != host.ranks:
        yield _problem(
            f"placement.{role}.ranks",
            f"{place.ranks} differs from the {host.ranks} of {other}, whose place it takes",
            f"remove it, or {host.ranks}",
        )


def _sources(recipe: Recipe) -> _Problems:
    data, kind = recipe.data, recipe.algorithm.kind
    if not data.train:
        yield _problem("data.train", "is empty", "for example data.train: [{path: builtin:dialogues}]")
    lists = {"train": data.train, "eval": data.eval, "test": data.test}
    for name, sources in lists.items():
        for index, source in enumerate(sources):
            at = f"data.{name}.{index}"
            yield from _source(at, source)
            if source.format in _UNFIT[kind]:
                yield _problem(
                    f"{at}.format", f"{kind} cannot learn from {source.format} rows", f"it needs {_NEEDS[kind]}"
                )
    if data.holdout > 0 and data.eval and data.test:
        yield _problem("data.holdout", "splits nothing off: eval and test are given", "remove holdout, or eval or test")
    if recipe.evaluation.every > 0 and not data.eval and data.holdout == 0:
        yield _problem("evaluation.every", "there are no rows to evaluate on", "add data.eval, or data.holdout: 0.05")
    algorithm = recipe.algorithm
    if isinstance(algorithm, Sft) and algorithm.loss_on in ("completion", "assistant"):
        for index, source in enumerate(data.train):
            if source.format == "text":
                yield _problem(
                    "algorithm.loss_on", f"data.train.{index} is plain text: it has no {algorithm.loss_on}", "all"
                )


_UNFIT: dict[str, tuple[str, ...]] = {
    "sft": ("prompt",),
    "reward": ("text", "messages", "prompt_completion", "prompt", "dialogsum"),
    "dpo": ("text", "messages", "prompt_completion", "prompt", "dialogsum"),
    "ppo": ("text",),
}
_NEEDS = {
    "sft": "text, messages, prompt_completion, hh_rlhf or dialogsum",
    "reward": "pairs: preference or hh_rlhf",
    "dpo": "pairs: preference or hh_rlhf",
    "ppo": "prompts: prompt, messages, prompt_completion, preference, hh_rlhf or dialogsum",
}


def _source(at: str, source: Source) -> _Problems:
    if source.path.startswith("run:"):
        yield _problem(f"{at}.path", "run: names a model, not data", "a hub name, a file, a folder or builtin:<name>")
    if source.path.strip() in ("", "builtin:"):
        yield _problem(f"{at}.path", "names nothing", "for example builtin:dialogues")
    if len(set(source.columns.values())) < len(source.columns):
        yield _problem(f"{at}.columns", "renames two columns to the same name", "one name each")


def _lengths(recipe: Recipe) -> _Problems:
    data, rollout = recipe.data, recipe.rollout
    longest, size = facts.longest_sequence(recipe), facts.unit_size(recipe)
    if facts.is_rl(recipe):
        if longest > data.max_length:
            yield _problem(
                "data.max_length", f"{data.max_length} is less than {_said_longest(recipe)}", f"at least {longest}"
            )
        if rollout.min_new_tokens > rollout.max_new_tokens:
            yield _problem(
                "rollout.min_new_tokens",
                f"{rollout.min_new_tokens} is more than max_new_tokens {rollout.max_new_tokens}",
                f"at most {rollout.max_new_tokens}",
            )
    elif data.max_prompt_length not in (type(data).model_fields["max_prompt_length"].default, *range(data.max_length)):
        yield _problem(
            "data.max_prompt_length",
            f"{data.max_prompt_length} leaves no room for a response in max_length {data.max_length}",
            f"at most {data.max_length - 1}",
        )
    needed = longest * size
    if recipe.train.max_tokens_per_rank < needed:
        unit = f"a pair of {size} x {longest} tokens" if size > 1 else f"one sequence of {longest} tokens"
        yield _problem(
            "train.max_tokens_per_rank",
            f"{recipe.train.max_tokens_per_rank} does not hold {unit}",
            f"at least {needed}, or shorten the sequences ({_length_keys(recipe)})",
        )


def _said_longest(recipe: Recipe) -> str:
    if facts.is_rl(recipe):
        data, rollout = recipe.data, recipe.rollout
        return f"data.max_prompt_length {data.max_prompt_length} + rollout.max_new_tokens {rollout.max_new_tokens}"
    return f"data.max_length {recipe.data.max_length}"


def _length_keys(recipe: Recipe) -> str:
    return "data.max_prompt_length, rollout.max_new_tokens" if facts.is_rl(recipe) else "data.max_length"


def _optimizers(recipe: Recipe) -> _Problems:
    for role in facts.trained_roles(recipe):
        model: Model | None = getattr(recipe.models, role)
        own = model is not None and model.optimizer is not None
        optimizer = facts.optimizer_of(recipe, role)
        if optimizer.schedule == "constant" and optimizer.min_ratio > 0:
            at = f"models.{role}.optimizer" if own else "optimizer"
            yield _problem(f"{at}.min_ratio", "has no effect: a constant schedule does not decay", "schedule: cosine")
            if not own:
                return


def _dpo(recipe: Recipe) -> _Problems:
    algorithm = recipe.algorithm
    if not isinstance(algorithm, Dpo):
        return
    smoothed = ("sigmoid", "robust", "exo_pair")
    if algorithm.label_smoothing > 0 and algorithm.loss not in smoothed:
        yield _problem(
            "algorithm.label_smoothing",
            f"has no effect on the loss {algorithm.loss}",
            f"0, or loss: {', '.join(smoothed)}",
        )
    if algorithm.loss == "exo_pair" and algorithm.label_smoothing == 0:
        yield _problem("algorithm.label_smoothing", "exo_pair is not defined at 0", "0.001, as in the paper")


def _ppo(recipe: Recipe) -> _Problems:
    algorithm = recipe.algorithm
    if not isinstance(algorithm, Ppo):
        return
    samples = facts.samples_per_step(recipe)
    if algorithm.minibatches > samples:
        yield _problem(
            "algorithm.minibatches",
            f"{algorithm.minibatches} of them cannot be made of {samples} samples",
            f"at most {samples} (train.global_batch_size x rollout.samples_per_prompt)",
        )
    fields = type(algorithm).model_fields
    if algorithm.kl_target is None and algorithm.kl_horizon != fields["kl_horizon"].default:
        yield _problem("algorithm.kl_horizon", "has no effect: kl_coef is fixed", "add kl_target, or remove kl_horizon")
    if algorithm.kl_target is not None and algorithm.kl_coef == 0:
        yield _problem(
            "algorithm.kl_coef",
            "the adaptive controller multiplies it, so it would stay 0",
            "a small number, such as 0.05",
        )
    if algorithm.target_kl is not None and algorithm.epochs * algorithm.minibatches == 1:
        yield _problem(
            "algorithm.target_kl",
            "has no effect with one optimizer step an iteration",
            "raise epochs or minibatches, or remove it (kl_target adapts kl_coef)",
        )
    if algorithm.dual_clip is not None and algorithm.dual_clip <= 1 + algorithm.upper_clip:
        yield _problem(
            "algorithm.dual_clip",
            f"{algorithm.dual_clip:g} lies inside the ratio's own clip",
            f"more than {1 + algorithm.upper_clip:g}; 3 in the paper",
        )


def _start_hint(role: str) -> str:
    return f"add models.{role}.path (hub name, folder, run:<output_dir>) or models.{role}.init"


def _problem(key: str, what: str, hint: str) -> Problem:
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    return Problem(path, what, hint)


_RULES: tuple[Callable[[Recipe], _Problems], ...] = (
    _names,
    _length_of_run,
    _which_models,
    _starts,
    _initial_sizes,
    _precision_and_engine,
    _reference,
    _reward,
    _placement,
    _sources,
    _lengths,
    _optimizers,
    _dpo,
    _ppo,
)
