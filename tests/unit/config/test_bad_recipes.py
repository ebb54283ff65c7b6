"""What people get wrong: each message says where, what, and the nearest right thing; exit status 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from tests.unit.config.examples import PPO, SFT

# kind of recipe, overrides, and what the message must contain: where, what, hint
OVERRIDDEN = [
    # unknown keys, at each level
    ("ppo", ["trian.steps=3"], ["trian (override trian.steps=3)", "unknown key", "did you mean train?"]),
    ("sft", ["evaluation.metrics=[rougel]"], ["evaluation.metrics.0", "rougel", "did you mean rougeL?"]),
    ("ppo", ["train.stepz=3"], ["train.stepz", "unknown key stepz", "did you mean steps?"]),
    ("ppo", ["algorithm.kl_coeff=0.1"], ["algorithm.kl_coeff", "unknown key", "did you mean kl_coef?"]),
    ("ppo", ["models.polcy.path=x"], ["models.polcy", "unknown key", "did you mean policy?"]),
    ("ppo", ["models.policy.engine.zero=3"], ["models.policy.engine.zero", "unknown key", "zero_stage"]),
    ("ppo", ["models.value.optimizer.learning_rat=1"], ["optimizer.learning_rat", "unknown key", "learning_rate?"]),
    ("sft", ["models.policy.init.n_layers=2"], ["models.policy.init.n_layers", "unknown key", "num_layers?"]),
    ("ppo", ["data.train.0.fromat=text"], ["data.train.0.fromat", "unknown key", "did you mean format?"]),
    ("ppo", ["tracking.wandb.projct=x"], ["tracking.wandb.projct", "unknown key", "did you mean project?"]),
    ("ppo", ["placement.policy.rank=2"], ["placement.policy.rank", "unknown key", "did you mean ranks?"]),
    ("ppo", ["placement.critic.ranks=2"], ["placement.critic", "unknown key critic", "models.value"]),
    ("sft", ["algorithm.beta=0.1"], ["algorithm.beta", "unknown key beta", "loss_on"]),
    # right words in the wrong place, and other trainers' words
    ("ppo", ["learning_rate=1e-5"], ["learning_rate", "unknown key", "did you mean optimizer.learning_rate?"]),
    ("ppo", ["epochs=1"], ["epochs", "unknown key", "did you mean train.epochs?"]),
    ("ppo", ["lr=1e-5"], ["lr (override lr=1e-5)", "unknown key lr", "here that is optimizer.learning_rate"]),
    ("ppo", ["num_train_epochs=1"], ["num_train_epochs", "unknown key", "train.epochs"]),
    ("ppo", ["algorithm.cliprange=0.2"], ["algorithm.cliprange", "unknown key", "clip"]),
    ("sft", ["algorithm.kind=distill", "algorithm.loss_top_k=3"], ["loss_top_k", "here that is algorithm.top_k"]),
    ("ppo", ["qqqq=1"], ["qqqq", "unknown key", "keys of the recipe: format, name"]),
    ("sft", ["peft.method=ia3"], ["peft", "unknown key", "did you mean models.policy.peft?"]),
    ("reward", ["peft.method=ia3"], ["peft", "unknown key", "did you mean models.reward.peft?"]),
    ("sft", ["models.policy.vocab_size=9"], ["unknown key vocab_size", "did you mean models.policy.init.vocab_size?"]),
    ("ppo", ["models.value={path: x}", "peft.method=ia3"], ["unknown key peft", "did you mean models.policy.peft?"]),
    ("ppo", ["models.value={path: x}", "models.policy.vocab_size=9"], ["did you mean models.policy.init.vocab_size?"]),
    # wrong types
    ("ppo", ["train.steps=ten"], ["train.steps", 'a whole number, not "ten"', "steps to train"]),
    ("ppo", ["train.steps=1e3"], ["train.steps", "a whole number, not 1000.0", "write 1000"]),
    ("ppo", ["train.steps=true"], ["train.steps", "a whole number, not true", "steps to train"]),
    ("ppo", ["optimizer.learning_rate=fast"], ["optimizer.learning_rate", 'a number, not "fast"', "schedule"]),
    ("ppo", ["optimizer.learning_rate=.nan"], ["optimizer.learning_rate", "a finite number", "learning_rate:"]),
    ("ppo", ["data.shuffle=yes"], ["data.shuffle", 'true or false, not "yes"', "write true"]),
    ("ppo", ["name=2024"], ["name", "a text, not 2024", 'put it in quotes: "2024"']),
    ("ppo", ["data.train=prompts.jsonl"], ["data.train", "must be a list", "write [{path: prompts.jsonl}]"]),
    ("ppo", ["data.train.0=prompts.jsonl"], ["data.train.0", "mapping of keys", "write {path: prompts.jsonl}"]),
    ("ppo", ["tracking.wandb.tags=a"], ["tracking.wandb.tags", "must be a list", "write [a]"]),
    ("ppo", ["models.value=some/model"], ["models.value", "mapping of keys", "write {path: some/model}"]),
    ("sft", ["models.policy.peft=ia3"], ["models.policy.peft", "mapping of keys", "write {method: ia3}"]),
    ("sft", ["models.policy.peft=dora"], ["models.policy.peft", "it starts with method: lora, adalora, ia3"]),
    ("sft", ["models.policy.peft.target_modules=q_proj,v_proj"],
     ["models.policy.peft.target_modules (override models.policy.peft.target_modules=q_proj,v_proj): \"q_proj,v_proj\"",
      "must be all-linear, or a list: [q_proj,v_proj]"]),
    ("ppo", ["rollout=null"], ["rollout", "mapping of keys, not null", "leave the key out"]),
    ("ppo", ["algorithm=ppo"], ["algorithm", "mapping of keys", "write {kind: ppo}"]),
    ("ppo", ["optimizer.betas=[0.9]"], ["optimizer.betas", "missing", "two"]),
    ("ppo", ["format=true"], ["format", "a whole number, not true", "version"]),
    ("ppo", ["models.policy.engine.zero_stage=true"], ["zero_stage", "a whole number, not true", "sharded"]),
    # second shards
    ("sft", ["models.policy.engine={zero_stage: 2, hpz_partition_size: 2}"],
     ["models.policy.engine.hpz_partition_size", "needs sharded parameters, and zero_stage is 2", "zero_stage: 3"]),
    ("sft", ["models.policy.engine={hpz_partition_size: 2, offload_parameters: cpu}"],
     ["models.policy.engine.hpz_partition_size", "wait in host memory", "offload_parameters: none"]),
    ("sft", ["models.policy.engine.mics_shard_size=2"],
     ["unknown key mics_shard_size", "here that is models.policy.engine.hpz_partition_size"]),
    # replayed experts
    ("ppo", ["rollout.router_replay=true",
             "models.policy={init: {hidden_size: 64, num_layers: 2, num_heads: 4, vocab_size: 512}}"],
     ["rollout.router_replay", "llama is no mixture of experts", "false"]),
    ("sft", ["rollout.router_replay=true"], ["rollout.router_replay", "has no effect: sft samples nothing", "false"]),
    ("ppo", ["rollout.router_replay=true", "models.policy={path: x, engine: {sequence_parallel: 2}}"],
     ["rollout.router_replay", "a row that several ranks share", "models.policy.engine.sequence_parallel: 1"]),
    ("ppo", ["rollout.router_replay=true", "models.policy={path: x}", "rollout.engine=vllm"],
     ["rollout.router_replay", "takes no sampler from outside", "rollout.engine: hf"]),
    # rankings
    ("dpo", ["algorithm.kind=kto", "data.train.0.format=rankings"], ["data.train.0.format", "rankings", "unpaired"]),
    ("reward", ["algorithm.max_answers=1"], ["algorithm.max_answers", "at least 2, not 1", "most answers"]),
    ("reward", ["algorithm.max_answers=9"], ["train.max_tokens_per_rank", "a ranking of 9 x 512", "at least 4608"]),
    # several reward models
    ("ppo", ["models.rewards.safe={weight: 2.0}"], ["models.rewards.safe", "neither path nor init"]),
    ("ppo", ["models.rewards.safe.pth=x"], ["models.rewards.safe.pth", "unknown key", "did you mean path?"]),
    ("ppo", ["models.rewards.Safe={path: x}"], ["models.rewards.Safe", "is no name of a role", "small letters"]),
    ("ppo", ["models.rewards.safe={path: x, weight: 0}"], ["models.rewards.safe.weight", "count for nothing"]),
    ("ppo", ["models.rewards.safe={path: x, peft: {method: lora}}"], ["models.rewards.safe.peft", "is frozen"]),
    ("ppo", ["models.rewards.safe={path: x, score: probability}"], ["models.rewards.safe.score", "label"]),
    ("ppo", ["models.rewards.reward={path: x}"], ["models.rewards.reward", "logged as rewards/reward", "another name"]),
    ("ppo", ["models.rewards.safe={path: x}", "placement.rewards.saef.ranks=2"],
     ["placement.rewards.saef", "no such model", "did you mean safe?"]),
    ("ppo", ["models.rewards.safe={path: x}", "placement.rewards.safe.share=policy"],
     ["placement.rewards.safe.share", "no base that could be the rewards.safe model"]),
    ("reward", ["models.rewards.safe={path: x}"], ["models.rewards", "reward trains one reward model", "remove it"]),
    ("dpo", ["models.rewards.safe={path: x}"], ["models.rewards", "dpo scores nothing", "remove it"]),
    # a reference that follows the policy
    ("dpo", ["algorithm.sync_alpha=0.5"], ["algorithm.sync_alpha", "the reference stays", "sync_every"]),
    ("dpo", ["algorithm.sync_every=2", "models.policy.peft={method: lora}"],
     ["algorithm.sync_every", "policy of adapters", "models.policy.peft: null"]),
    ("dpo", ["algorithm.sync_every=2", "models.reference={path: some/other, differs: true}"],
     ["algorithm.sync_every", "another model than the policy", "remove models.reference.differs"]),
    # bounds
    ("ppo", ["train.steps=0"], ["train.steps", "at least 1, not 0", "steps to train"]),
    ("ppo", ["optimizer.learning_rate=-1e-5"], ["optimizer.learning_rate", "greater than 0", "learning_rate:"]),
    ("ppo", ["algorithm.gamma=1.1"], ["algorithm.gamma", "at most 1, not 1.1", "discount"]),
    ("ppo", ["algorithm.lam=-0.1"], ["algorithm.lam", "at least 0, not -0.1", "GAE"]),
    ("ppo", ["data.holdout=0.5"], ["data.holdout", "less than 0.5, not 0.5", "share of train"]),
    ("ppo", ["rollout.top_p=0"], ["rollout.top_p", "greater than 0", "nucleus"]),
    ("ppo", ["rollout.temperature=0"], ["rollout.temperature", "greater than 0", "logits"]),
    ("dpo", ["algorithm.label_smoothing=0.5"], ["algorithm.label_smoothing", "less than 0.5", "flipped"]),
    ("ppo", ["placement.policy.ranks=0"], ["placement.policy.ranks", "at least 1, not 0, or auto", "ranks of"]),
    ("ppo", ["placement.policy.ranks=all"], ["placement.policy.ranks", 'not "all", or auto', "the plan chooses"]),
    ("ppo", ["format=2"], ["format", "2 is not known here", "must be 1"]),
    ("ppo", ["name=a/b"], ["name", '"a/b" is not allowed here', "letters, digits"]),
    ("ppo", ['output_dir=""'], ["output_dir", "must not be empty", "run folder"]),
    # misspelt kinds and words
    ("ppo", ["algorithm.kind=poo"], ["algorithm.kind", 'unknown algorithm kind "poo"', "did you mean ppo?"]),
    ("ppo", ["algorithm.kl_estimator=k4"], ["algorithm.kl_estimator", '"k4" is not known', "one of: k1, k2, k3"]),
    ("ppo", ["models.policy.dtype=bf16"], ["models.policy.dtype", '"bf16" is not known', "did you mean bfloat16?"]),
    ("ppo", ["optimizer.name=adam"], ["optimizer.name", '"adam" is not known', "did you mean adamw?"]),
    ("ppo", ["optimizer.name=schedule_free_adamw"], ["optimizer.name", "is not to be had: its weights of training"]),
    ("ppo", ["optimizer.name=schedule-free"], ["optimizer.name", "is not to be had", "one of: adamw, adamw_8bit"]),
    ("ppo", ["optimizer={name: lion, beta: [0.9, 0.9]}"], ["optimizer.beta", "unknown key", "did you mean betas?"]),
    ("ppo", ["optimizer={name: lion, eps: 1e-6}"], ["optimizer.eps", "unknown key", "keys of optimizer: name,"]),
    ("ppo", ["optimizer={name: lion}", "models.value.optimizer.eps=1e-6"], ["value.optimizer.eps", "unknown key"]),
    ("dpo", ["optimizer.name=adafactor"], ["policy.engine.zero_stage", "stage 3 cuts", "zero_stage=0"]),
    ("ppo", ["optimizer.paged=true"], ["a key of name: adamw_8bit; keys of optimizer: name,"]),
    ("ppo", ["models.policy.peft={method: bottleneck, r: 8}"], ["a key of method: lora or adalora; keys of models"]),
    ("ppo", ["models.policy.peft={method: bottleneck, size: 8}"], ["did you mean bottleneck_size?"]),
    ("ppo", ["checkpoint.async=true"], ["did you mean asynchronous?"]),
    ("ppo", ["models.policy.quantization=nf4"], ["must be a mapping", "write {method: nf4}"]),
    ("ppo", ["gradient_checkpointing=true"], ["did you mean models.policy.gradient_checkpointing?"]),
    ("ppo", ["packing=true"], ["here that is models.policy.engine.packed"]),
    ("ppo", ["models.policy.peft.rank=8"], ["models.policy.peft.rank", "here that is models.policy.peft.r"]),
    ("ppo", ["models.value.peft.lora_alpha=8"], ["here that is models.value.peft.alpha"]),
    ("ppo", ["data.columns={a: prompt}"], ["data.columns", "unknown key", "did you mean data.train.0.columns?"]),
    ("ppo", ["data.train.0.colums={a: prompt}"], ["data.train.0.colums", "did you mean columns?"]),
    ("ppo", ["optim=adafactor"], ["optim (override optim=adafactor)", "here that is optimizer.name"]),
    ("ppo", ["optimizer=lion"], ["optimizer", "must be a mapping", "write {name: lion}"]),
    ("dpo", ["algorithm.loss=sigmod"], ["algorithm.loss", '"sigmod" is not known', "did you mean sigmoid?"]),
    ("ppo", ["data.train.0.format=hh-rlhf"], ["data.train.0.format", "is not known here", "did you mean hh_rlhf?"]),
    ("ppo", ["rollout.engine=vlm"], ["rollout.engine", "is not known here", "did you mean vllm?"]),
    ("ppo", ["tracking.wandb.mode=off"], ["tracking.wandb.mode", '"off" is not known', "offline"]),
    ("ppo", ["placement.value.with=polcy"], ["placement.value.with", "is not known here", "did you mean policy?"]),
    # malformed overrides
    ("ppo", ["train.steps"], ["override train.steps", "has no =", "write train.steps=VALUE"]),
    ("ppo", ["--train.steps=3"], ["override --train.steps=3", "take no dashes", "write train.steps=3"]),
    ("ppo", ["train..steps=3"], ["override train..steps=3", "is not a dotted key", "look like"]),
    ("ppo", ["=3"], ["override =3", "is not a dotted key", "look like"]),
    ("ppo", ["train.steps="], ["override train.steps=", "has no value", "train.steps=null"]),
    ("ppo", ["models={a: [}"], ["override models={a: [}", "not valid YAML", "brackets"]),
    ("ppo", ["data.train.3.path=x"], ["override data.train.3.path=x", "has no item 3", "it has 1: 0 to 0"]),
    ("ppo", ["data.eval.1.path=x"], ["override data.eval.1.path=x", "has no item 1", "it is empty"]),
    ("ppo", ["data.train.path=x"], ["override data.train.path=x", "is a list", "data.train.0.path"]),
    ("ppo", ["name.first=x"], ["override name.first=x", "name is a plain value", "name=..."]),
    ("ppo", ["seed=!!python/name:os.system x"], ["override seed=", "is not allowed", "plain YAML"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "overrides", "parts"), OVERRIDDEN, ids=lambda value: str(value)[:60])
def test_override_is_refused(recipes: Callable[[str], str], kind: str, overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipes(kind), overrides)
    assert caught.value.exit_status == 2
    for part in parts:
        assert part in str(caught.value)


# text that is replaced, by what, and what the message must contain
# Nine aliases of nine aliases, nine times over.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
EDITED = [
    (PPO, "  steps: 10", "  stepz: 10", ["my.yaml:17", "train.stepz", "unknown key stepz", "did you mean steps?"]),
    (PPO, "kind: ppo", "kind: ppoo", ["algorithm.kind (", "my.yaml:5", "unknown algorithm kind", "did you mean ppo?"]),
    (PPO, "  kind: ppo", "  gamma: 1.0", ["algorithm.kind", "my.yaml:4", "is missing", "one of: ", " dpo,"]),
    (PPO, "name: example\n", "", ["name", "is missing", "run name"]),
    (PPO, "    path: some/policy", "    path: 7", ["models.policy.path", "my.yaml:8", "a text, not 7", '"7"']),
    (PPO, "train:\n  steps: 10\n", "train:\n", ["train (", "my.yaml:16", "not null", "leave the key out"]),
    (PPO, "    - path: prompts.jsonl", "    - prompts.jsonl", ["data.train.0", "my.yaml:15", "{path: prompts.jsonl}"]),
    (PPO, "    dtype: float32\n  reward", "    dtype: float32\n    dtype: float16\n  reward",
     ["my.yaml:10", "models.policy.dtype is given twice", "my.yaml:9"]),
    (PPO, "  steps: 10", "\tsteps: 10", ["my.yaml:17", "not valid YAML", "spaces, not with tabs"]),
    (PPO, "name: example", "name: a: b", ["my.yaml:2", "not valid YAML", "quote a value"]),
    (PPO, "name: example", "name: [a", ["not valid YAML", "brackets"]),
    (PPO, "name: example", "name: !!python/object:os.x {}", ["my.yaml:2", "name", "a text"]),
    (PPO, "name: example", "1: example", ["my.yaml:2", "a key must be a text", "quotes"]),
    (PPO, "name: example", "name: example\n---\nname: b", ["not valid YAML", "one file holds one recipe"]),
    (SFT, "{kind: sft}", "&a {kind: sft, x: *a}", ["my.yaml:4", "an alias contains itself"]),
    (SFT, "{kind: sft}", f"{{kind: sft}}\n{BOMB}", ["my.yaml:", "holds more than 100,000 values", "aliases"]),
    (PPO, "name: example", "name: a\x07b", ["my.yaml:2", "holds the character 0x07", "remove it"]),
    (PPO, "name: example", f"name: {'[' * 3000}", ["my.yaml", "is nested too deeply", "close the brackets"]),
    (PPO, "name: example", f"seed: {'9' * 5000}", ["my.yaml:2", "a number has 5,000 digits", "write a smaller one"]),
    (SFT, SFT, "", ["my.yaml", "is empty", "format: 1"]),
    (SFT, SFT, "- a\n", ["my.yaml", "holds no mapping of keys", "format: 1"]),
    (SFT, "num_heads: 4, ", "", ["models.policy.init.num_heads", "my.yaml:7", "is missing", "attention heads"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "old", "new", "parts"), EDITED, ids=lambda value: str(value)[-40:])
def test_file_is_refused_with_its_line(
    write: Callable[[str], str], text: str, old: str, new: str, parts: list[str]
) -> None:
    assert old in text
    with pytest.raises(UserError) as caught:
        load_recipe(write(text.replace(old, new, 1)), [])
    assert caught.value.exit_status == 2
    for part in parts:
        assert part in str(caught.value)


def test_everything_wrong_is_in_one_message(write: Callable[[str], str]) -> None:
    text = (
        PPO.replace("steps: 10", "stepz: 10").replace("some/policy", "3").replace("kind: ppo", "kind: ppo\n  lamb: 1")
    )
    with pytest.raises(UserError) as caught:
        load_recipe(write(text), ["seed=-1"])
    message = str(caught.value)
    assert "4 things are wrong" in message
    for part in ("train.stepz", "models.policy.path", "algorithm.lamb", "seed (override seed=-1)", "did you mean lam?"):
        assert part in message


def test_rules_broken_together_are_in_one_message(recipes: Callable[[str], str]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipes("ppo"), ["train.max_tokens_per_rank=100", "algorithm.minibatches=1000"])
    message = str(caught.value)
    assert "2 things are wrong" in message
    assert "at least 384" in message
    assert "algorithm.minibatches (override algorithm.minibatches=1000)" in message
