"""Rules between fields: each broken once, with the key it names and the way out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.rules import check, violations

INIT = "{init: {hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300}}"
BROKEN = [
    # names and length
    ("sft", ["output_dir=run:x"], ["output_dir", "must be a folder"]),
    ("sft", ["checkpoint.resume=Auto"], ["checkpoint.resume", "did you mean auto?"]),
    ("sft", ["train.steps=null"], ["train", "neither steps nor epochs", "epochs: 1"]),
    ("sft", ["train={steps: 1, epochs: 1}"], ["train.epochs", "beside train.steps", "keep one"]),
    ("sft", ["optimizer.warmup_steps=10"], ["optimizer.warmup_steps", "leave none", "at most 9"]),
    ("sft", ["models.policy.optimizer.warmup_steps=10"], ["models.policy.optimizer.warmup_steps", "at most 9"]),
    ("ppo", ["algorithm.value_warmup_steps=10"], ["value_warmup_steps", "never be trained", "at most 9"]),
    ("sft", ["recovery.wait_for_nodes=60", "recovery.max_restarts=0"],
     ["recovery.wait_for_nodes", "has no effect", "recovery.max_restarts=3"]),
    ("sft", ["recovery.elastic=true", "recovery.max_restarts=0"],
     ["recovery.elastic", "has no effect", "recovery.max_restarts=3"]),
    ("sft", ["checkpoint.memory_every=1", "recovery.max_restarts=0"],
     ["checkpoint.memory_every", "has no effect", "recovery.max_restarts=3"]),
    ("ppo", ["recovery.rollback=1", "rollout.overlap=1", "rollout.engine=vllm"],
     ["recovery.rollback", "sampled ahead", "rollout.overlap=0"]),
    ("sft", ["recovery.rollback=1", "checkpoint.every=4", "checkpoint.keep=5"],
     ["checkpoint.keep", "5 of every 4 steps are too few", "20 steps may pass", "checkpoint.keep=6"]),
    ("sft", ["recovery.rollback=1", "recovery.max_skipped_steps=99", "checkpoint.every=2"],
     ["checkpoint.keep", "3 of every 2 steps", "100 steps may pass", "checkpoint.keep=51"]),
    # which models
    ("sft", ["models.reward.path=x"], ["models.reward", "sft has no reward model", "takes: policy"]),
    ("dpo", ["models.value.path=x"], ["models.value", "dpo has no value model", "policy, reference"]),
    ("reward", ["models.policy.path=x"], ["models.policy", "reward has no policy", "takes: reward"]),
    ("sft", ["placement.value.ranks=2"], ["placement.value", "has no role value"]),
    ("ppo", ["models.reward=null"], ["models.reward", "is missing: ppo needs it", "models.reward.path"]),
    ("ppo", ["models.policy=null"], ["models.policy", "is missing: ppo needs it", "models.policy.path"]),
    ("sft", ["models.policy.path=x", "models.policy.init.num_heads=1"], ["models.policy.init", "keep one of the two"]),
    ("ppo", ["models.policy.path=null"], ["models.policy", "neither path nor init", "models.policy.init"]),
    ("ppo", ["models.reward.path=null"], ["models.reward", "neither path nor init"]),
    ("reward", ["models.reward.init=null"], ["models.reward", "neither path nor init"]),
    ("sft", ["models.policy.trust_remote_code=true"], ["trust_remote_code", "needs a path"]),
    ("ppo", ["models.policy.path=builtin:dialogues"], ["models.policy.path", "not models", "hub name"]),
    ("ppo", ['models.policy.path="run:"'], ["models.policy.path", "names no run folder"]),
    ("ppo", ["models.policy.path=run:./runs/example/"], ["models.policy.path", "its own result", "output_dir"]),
    ("ppo", ["models.policy.path=run:runs/a/final"], ["models.policy.path", "write run:runs/a"]),
    # sizes of fresh models
    ("sft", ["models.policy.init.num_heads=6"], ["init.hidden_size", "does not divide by num_heads 6", "60"]),
    ("sft", ["models.policy.init.num_heads=64"], ["init.num_heads", "even size"]),
    ("sft", ["models.policy.init.num_kv_heads=3"], ["init.num_kv_heads", "one of: 1, 2, 4"]),
    ("sft", ["models.policy.init.architecture=bert"], ["init.architecture", "writes no answer", "llama or t5"]),
    ("sft", ["models.policy.init.architecture=t5", "models.policy.init.num_kv_heads=2"],
     ["init.num_kv_heads", "t5 has as many", "remove it"]),
    ("sft", ["models.policy.init.max_positions=256"], ["init.max_positions", "data.max_length 512", "at least 512"]),
    ("ppo", ["models.policy.init={hidden_size: 64, num_layers: 1, num_heads: 2, vocab_size: 300, max_positions: 300}"],
     ["models.policy.init.max_positions", "data.max_prompt_length 256 + rollout.max_new_tokens 128", "at least 384"]),
    ("dpo", ["models.reference={init: {hidden_size: 64, num_layers: 2, num_heads: 4, vocab_size: 600}, differs: true}"],
     ["models.reference.init.vocab_size", "differs from the policy's", "512"]),
    # precision and engine
    ("ppo", ["models.policy.attention=flash_attention_2"], ["models.policy.attention", "not run in float32", "sdpa"]),
    ("sft", ["models.policy.engine={zero_stage: 2, offload_parameters: cpu}"], ["offload_parameters", "zero_stage: 3"]),
    ("sft", ["data.max_length=1000000000000000000000", "train.max_tokens_per_rank=64"],
     ["train.max_tokens_per_rank", "64 does not hold one sequence"]),
    ("sft", ["models.policy.engine.sequence_parallel=2", "placement.policy.ranks=3"],
     ["models.policy.engine.sequence_parallel", "3 ranks do not part into groups of 2", "placement.policy.ranks=4"]),
    ("sft", ["models.policy.engine.sequence_parallel=2", "models.policy.attention=eager"],
     ["models.policy.attention", "a rank's own slice", "auto"]),
    ("sft", ["models.policy.engine.sequence_parallel=2", "algorithm.neftune_alpha=5"],
     ["models.policy.engine.sequence_parallel", "noise is drawn for whole rows", "neftune_alpha: 0"]),
    ("sft", ["models.policy.engine.sequence_parallel=2", "train.max_tokens_per_rank=60", "data.max_length=128"],
     ["train.max_tokens_per_rank", "one sequence of 128 tokens", "at least 64"]),
    ("sft", ["models.policy.engine={sequence_parallel: 2, packed: true}"],
     ["models.policy.engine.packed", "ranks share rows", "sequence_parallel: 1"]),
    ("sft", ["models.policy.peft={method: prefix}", "models.policy.engine.packed=true"],
     ["models.policy.engine.packed", "virtual tokens stand before a row", "false"]),
    ("sft", ["models.policy.peft={method: prompt}", "models.policy.engine.packed=true"],
     ["models.policy.engine.packed", "virtual tokens stand before a row", "false"]),
    ("sft", ["models.policy.init.architecture=t5", "models.policy.engine.packed=true"],
     ["models.policy.engine.packed", "t5 has an encoder", "false"]),
    ("sft", ["models.policy.engine={zero_stage: 0, offload_optimizer: cpu}"], ["offload_optimizer", "1, 2 or 3"]),
    ("ppo", ["models.reward.engine.zero_stage=2"], ["models.reward.engine.zero_stage", "frozen", "0 (whole"]),
    ("ppo", ["models.reward.optimizer.learning_rate=1e-3"], ["models.reward.optimizer", "frozen", "remove it"]),
    ("ppo", ["models.reference.gradient_checkpointing=true"], ["models.reference.gradient_checkpointing", "frozen"]),
    ("dpo", ["models.reference.engine.offload_optimizer=cpu"], ["models.reference.engine.offload_optimizer", "frozen"]),
    ("ppo", ["models.policy={path: a, attention: flash_attention_2}", "models.value.dtype=float32"],
     ["models.value.attention", "not run in float32"]),
    # adapters and bits
    ("sft", ["models.policy.quantization={method: nf4}"], ["models.policy.quantization", "is trained", "method: lora"]),
    ("reward", ["models.reward.quantization={double: false}"], ["models.reward.quantization", "models.reward.peft"]),
    ("dpo", ["models.policy.peft={dropout: 0.1}"], ["models.policy.peft.dropout", "dpo trains without dropout"]),
    ("sft", ["models.policy.peft={init: pissa, dropout: 0.1}"], ["models.policy.peft.dropout", "init: kaiming"]),
    ("sft", ["models.policy.peft={init: olora, dora: true}"], ["models.policy.peft.dora", "olora leaves"]),
    ("sft", ["models.policy.peft={init: olora, svd_rounds: 4}"], ["peft.svd_rounds", "no effect with init: olora"]),
    ("sft", ["models.policy.peft={init: pissa}", "models.policy.quantization={}"],
     ["models.policy.peft.init", "out of whole weights", "models.policy.quantization: null"]),
    ("sft", ["models.policy.peft={target_modules: []}"], ["models.policy.peft.target_modules", "all-linear"]),
    ("dpo", ["models.policy.peft={method: prefix_tuning}"], ["models.policy.peft.method", "that is prefix"]),
    ("sft", ["models.policy.peft={method: prefix}", "models.policy.gradient_checkpointing=true"],
     ["models.policy.gradient_checkpointing", "without the keys and values", "method: prompt"]),
    ("sft", ["models.policy.peft={method: prefix, encoder_hidden_size: 8}"], ["encoder_hidden_size", "projection"]),
    ("ppo", ["models.policy.peft={method: p_tuning}"], ["models.policy.peft.method", "not been compared in ppo"]),
    ("dpo", ["models.policy.peft={method: diff}"], ["models.policy.peft.method", "that is diff_pruning"]),
    ("sft", ["models.policy.peft={method: lisa}"], ["models.policy.peft.method", "nothing would be saved"]),
    ("dpo", ["models.policy.peft={method: diff_pruning}", "models.policy.engine.zero_stage=2"],
     ["models.policy.peft.method", "draws gates in every step, and dpo compares", "lora"]),
    ("sft", ["algorithm={kind: distill, on_policy: 0.5}", "models.teacher.path=b",
             "models.policy.peft={method: diff_pruning}", "models.policy.engine.zero_stage=2"],
     ["models.policy.peft.method", "draws gates in every step, and distill compares"]),
    ("sft", ["models.policy.peft={method: diff_pruning}"],
     ["models.policy.engine.zero_stage", "whole on every rank", "2, or"]),
    ("sft", ["models.policy.peft={method: diff_pruning}", "models.policy.engine.zero_stage=2",
             "models.policy.quantization={}"], ["models.policy.quantization", "rounded weights", "null, or"]),
    ("sft", ["models.policy.peft={method: diff_pruning}", "models.policy.engine.zero_stage=2", "evaluation.best=loss",
             "evaluation.every=1"], ["evaluation.best", "before gates are settled", "null", "lora"]),
    ("sft", ["models.policy.peft={method: diff_pruning, final_steps: 10}", "models.policy.engine.zero_stage=2",
             "train.steps=10"], ["models.policy.peft.final_steps", "leave none of 10 for the gates", "at most 9"]),
    ("sft", ["models.policy.peft={method: diff_pruning, target_modules: []}", "models.policy.engine.zero_stage=2"],
     ["peft.target_modules", "names no layer", "all-linear"]),
    ("reward", ["models.reward.peft={method: parallel}"], ["models.reward.peft.method", "cannot be merged", "lora"]),
    ("sft", ["models.policy.peft={method: parallel, target_modules: []}"], ["peft.target_modules", "names no layer"]),
    ("dpo", ["models.policy.peft={method: bitfit}", "placement.reference.share=policy"],
     ["placement.reference.share", "trains some of its weights"]),
    ("sft", ["models.policy.peft={dora: true}", "models.policy.quantization={}"],
     ["models.policy.peft.dora", "reads whole matrices", "models.policy.engine.zero_stage: 2"]),
    ("reward", ["models.reward.peft={method: prompt}"], ["models.reward.peft.method", "sft and dpo train"]),
    ("ppo", ["models.policy.peft={method: prompt}"], ["models.policy.peft.method", "not been compared in ppo"]),
    ("sft", ["models.policy.peft={method: adalora}"], ["models.policy.engine.zero_stage", "whole gradients", "0, or"]),
    ("sft", ["models.policy.peft={method: adalora, r: 4, target_r: 4}", "models.policy.engine.zero_stage=0"],
     ["models.policy.peft.target_r", "nothing to give up", "less than 4"]),
    ("sft", ["models.policy.peft={method: adalora, initial_steps: 9000}", "models.policy.engine.zero_stage=0"],
     ["models.policy.peft.initial_steps", "leave none of", "train.steps"]),
    ("sft", ["models.policy.peft={method: adalora, initial_steps: 2, search_every: 10}", "train.steps=10",
             "models.policy.engine.zero_stage=0"],
     ["models.policy.peft.search_every", "no search after step 2 and before step 10", "at most 7"]),
    ("sft", ["models.policy={path: a, dtype: bfloat16, peft: {method: adalora}, engine: {zero_stage: 0}}"],
     ["models.policy.dtype", "does not cut", "float32"]),
    ("ppo", ["models.policy.peft={method: adalora}", "models.policy.engine.zero_stage=0"],
     ["models.policy.peft.method", "has not been compared in ppo", "lora"]),
    ("sft", ["models.policy.peft={method: prompt}", "optimizer.layer_decay=0.9"],
     ["optimizer.layer_decay", "virtual tokens lie in no layer", "1"]),
    ("sft", ["models.policy.peft={method: prompt, start: text}"], ["models.policy.peft.text", "is missing"]),
    ("sft", ["models.policy.peft={method: prompt, text: ab}"], ["peft.text", "no effect at start: vocabulary"]),
    ("sft", ["models.policy.peft={method: prompt}", "models.policy.engine.sequence_parallel=2"],
     ["models.policy.engine.sequence_parallel", "virtual tokens before them"]),
    ("sft", ["models.policy.peft={method: p_tuning}", "models.policy.init.architecture=t5"],
     ["models.policy.peft.method", "sequences of t5 have not been compared"]),
    ("dpo", ["models.policy.peft={method: ia4}"], ["models.policy.peft.method", "did you mean ia3?"]),
    ("dpo", ["models.policy.peft={method: ia3, r: 3}"], ["models.policy.peft.r", "unknown key r"]),
    ("dpo", ["models.policy.peft={train: ['*.bias']}"], ["peft.train", "keys of models.policy.peft: method, r"]),
    ("dpo", ["models.policy.peft={method: ia3, feedforward_modules: [fc2]}"], ["feedforward", "fc2 is not among"]),
    ("dpo", ["models.policy.peft={method: selective, train: ['*.bias']}", "placement.reference.share=policy"],
     ["placement.reference.share", "some of its weights"]),
    ("dpo", ["models.policy.peft={method: selective, train: ['*.bias']}", "models.policy.quantization={}",
             "models.reference.quantization=null"], ["models.policy.quantization", "cannot be"]),
    ("dpo", ["models.reference.peft={r: 4}"], ["models.reference.peft", "frozen", "remove it"]),
    ("ppo", ["models.reward.peft={r: 4}"], ["models.reward.peft", "frozen"]),
    ("ppo", ["models.policy.peft={r: 4}", "models.policy.quantization={}"],
     ["rollout.weights", "a quantized policy does not have", "sharded"]),
    ("sft", ["models.policy.quantization={method: int4}"], ["models.policy.quantization.method", "int8"]),
    ("dpo", ["models.policy.peft={r: 4}", "models.policy.quantization={}", "models.reference.quantization=null"],
     ["models.reference.quantization", 'null differs from the policy\'s {"method": "nf4", "double": true}']),
    ("dpo", ["models.policy.peft={r: 4}", "models.reference.quantization={double: false}"],
     ["models.reference.quantization", "differs from the policy's null", "differs: true"]),
    ("ppo", ["placement.value.share=reference"], ["placement.value.share", "has no base", "with: reference"]),
    ("ppo", ["placement.value.share=policy"], ["placement.value.share", "all its weights", "method: lora"]),
    ("ppo", ["placement.value.share=policy", "models.policy.peft={}", "models.value={path: a}"],
     ["models.value.path", "is not the policy's", "remove it", "with: policy"]),
    ("ppo", ["placement.value.share=policy", "models.policy.peft={}", "models.value.engine.zero_stage=2"],
     ["models.value.engine", "is not the policy's", "over whose base the value model lies"]),
    ("ppo", ["placement.value.share=policy", "models.policy.peft={method: ia3}"],
     ["models.policy.peft", "ia3 has not been tried", "{method: lora}"]),
    ("ppo", ["placement.value.share=policy", "models.policy.peft={}", "models.value.peft={dora: true}"],
     ["models.value.peft.dora", "has not been tried", "false"]),
    ("ppo", ["placement.value.share=policy", "models.policy.peft={}", "models.policy.engine.offload_optimizer=cpu"],
     ["models.policy.engine.offload_optimizer", "has not been tried", "none"]),
    ("ppo", ["placement.reward.share=policy", "models.policy.peft={}", f"models.reward={INIT}"],
     ["placement.reward.share", "the adapter beside a finished reward model", "run:OUTPUT_DIR"]),
    ("ppo", ["placement.reward.share=policy", f"models.policy={INIT[:-1]}, peft: {{}}}}"],
     ["placement.reward.share", "the policy starts from nothing"]),
    ("ppo", ["placement.reward.share=policy", "models.policy.peft={}", "models.reward.dtype=float16"],
     ["models.reward.dtype", "is not the policy's", "remove it"]),
    ("ppo", ["placement.reward.share=policy", "models.policy.peft={}", "models.reward.quantization={}"],
     ["models.reward.quantization", "is not the policy's", "remove it"]),
    ("reward", ["placement.reward.share=policy"], ["placement.reward.share", "this run has no policy group"]),
    ("dpo", ["placement.reference.share=policy"], ["placement.reference.share", "all its weights", "method: lora"]),
    ("dpo", ["placement.reference.share=policy", "models.policy.peft={}", "models.reference={path: a, differs: true}"],
     ["placement.reference.share", "meant to differ"]),
    ("dpo", ["placement.reference.share=policy", "models.policy.peft={}", "models.reference.engine.zero_stage=0"],
     ["models.reference.engine", "has no effect", "the policy's own base"]),
    ("sft", ["data.step_separator=' '"], ["data.step_separator", "learns from no steps", "remove it"]),
    # reference
    ("dpo", ["algorithm={kind: dpo, reference: cached, sync_every: 2}"],
     ["algorithm.reference", "follows the policy", "sync_every: 0"]),
    ("dpo", ["algorithm.reference=cached", "models.reference={path: a, differs: true}"],
     ["models.reference", "has no effect", "algorithm.reference=group"]),
    ("dpo", ["algorithm.reference=cached", "placement.reference.ranks=2"],
     ["placement.reference", "has no effect", "algorithm.reference=group"]),
    ("ppo", ["models.reference.path=other/model"], ["models.reference.path", "not the policy's", "differs: true"]),
    ("ppo", ["models.reference.dtype=bfloat16"], ["models.reference.dtype", "differs from the policy's", "float32"]),
    ("ppo", ["models.reference.differs=true"], ["models.reference.differs", "is the policy's start", "remove it"]),
    # reward
    ("ppo", ["models.reward.functions=[brevity]"], ["models.reward.functions", "not module:function", "my_rewards"]),
    ("ppo", ["models.reward.functions=[a:b, a:b]"], ["models.reward.functions", "twice"]),
    ("ppo", ["models.reward.functions=[a:f, b:f]"],
     ["models.reward.functions.1", "logged as rewards/f", "models.reward.functions.0", "another name"]),
    ("ppo", ["models.reward={functions: [a:f], http: [{name: f, url: 'http://h/'}]}"],
     ["models.reward.http.0.name", "logged as rewards/f", "models.reward.functions.0"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://me:secret@h/'}]}"],
     ["models.reward.http.0.url", "holds a secret", "token_env"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h/?api_key=secret'}]}"],
     ["models.reward.http.0.url", "holds a secret", "token_env"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'ftp://h/'}]}"],
     ["models.reward.http.0.url", "is not allowed", "by POST"]),
    ("ppo", ["models.reward={http: [{url: 'http://h/'}]}"],
     ["models.reward.http.0.name", "is missing", "rewards/<name>"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://[::1/x'}]}"],
     ["models.reward.http.0.url", "names no host", "http://127.0.0.1:8000/score"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h:x/y'}]}"], ["models.reward.http.0.url", "no port"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h:65536/'}]}"], ["models.reward.http.0.url", "no port"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://:80/'}]}"], ["models.reward.http.0.url", "no host"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://a..b/'}]}"], ["models.reward.http.0.url", "no host"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://a b/'}]}"], ["models.reward.http.0.url", "no host"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h/a b?c=%20'}]}"],
     ["models.reward.http.0.url", "a space", "write http://h/a%20b?c=%20"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://bücher.de:80/ü'}]}"],
     ["models.reward.http.0.url", "beyond ASCII", "write http://xn--bcher-kva.de:80/%C3%BC"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h/', deadline: 1000}]}"],
     ["models.reward.http", "may take 1000 s", "90% of", "(600 s)", "recovery.deadline_floor_s: 1112"]),
    ("ppo", ["models.reward.http=[{name: f, url: http://h, deadline: 300}, {name: g, url: http://h, deadline: 300}]"],
     ["models.reward.http", "may take 600 s", "recovery.deadline_floor_s: 667"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h/'}]}", "recovery.deadline_floor_s=200"],
     ["models.reward.http", "may take 240 s", "recovery.deadline_floor_s: 267"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h/', token: abc}]}"],
     ["models.reward.http.0.token", "unknown key", "token_env"]),
    ("ppo", ["models.reward={judges: [{name: f, model: org/big}]}"],
     ["models.reward.judges.0.url", "names no endpoint", "GPUs of its own", "vllm serve org/big --port 8000"]),
    ("ppo", ["models.reward={judges: [{name: f, url: 'http://me:secret@h/v1', model: m}]}"],
     ["models.reward.judges.0.url", "holds a secret", "token_env"]),
    ("ppo", ["models.reward={judges: [{name: f, url: 'http://h/v1', model: m, asks: comparisons}]}"],
     ["models.reward.judges.0.asks", "samples_per_prompt is 1", "asks: ratings"]),
    ("ppo", ["models.reward={judges: [{name: f, url: 'http://h/v1', model: m, asks: comparisons}]}",
             "rollout.samples_per_prompt=2", "evaluation.best=objective/score", "evaluation.every=2"],
     ["evaluation.best", "objective/score is 0.5 whatever the policy", "evaluation.best=rewards/rated"]),
    ("ppo", ["models.reward={functions: ['a:g'], judges: [{name: f, url: 'http://h/v1', model: m, asks: comparisons}]}",
             "rollout.samples_per_prompt=2", "evaluation.best=rewards/f", "evaluation.every=2"],
     ["evaluation.best", "rewards/f is 0.5 whatever the policy"]),
    ("ppo", ["models.reward={judges: [{name: f, url: 'http://h/v1', model: m, deadline: 1000}]}"],
     ["models.reward.judges.0.deadline", "may take 1000 s", "recovery.deadline_floor_s: 1112"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h/', deadline: 10}], "
             "judges: [{name: g, url: 'http://h/v1', model: m, deadline: 1000}]}"],
     ["models.reward.judges.0.deadline", "may take 1010 s", "the sum of their deadlines"]),
    ("ppo", ["models.reward={functions: [a:f], judges: [{name: f, url: 'http://h/v1', model: m}]}"],
     ["models.reward.judges.0.name", "logged as rewards/f", "models.reward.functions.0"]),
    ("reward", ["models.reward.judges=[{name: f, url: 'http://h/v1', model: m}]"],
     ["models.reward.judges", "here it is trained"]),
    ("reward", ["models.reward.http=[{name: f, url: 'http://h/'}]"], ["models.reward.http", "here it is trained"]),
    ("ppo", ["models.reward={functions: ['a:brevity'], arguments: {brevty: {limit: 3}}}"],
     ["models.reward.arguments.brevty", "no such function", "did you mean brevity?"]),
    ("ppo", ["models.reward={functions: ['a:f'], arguments: {other_one: {limit: 3}}}"], ["named there: f"]),
    ("ppo", ["models.reward={functions: ['a:f'], arguments: {f: 3}}"],
     ["models.reward.arguments.f", "must be a mapping"]),
    ("ppo", ["models.reward.weights=[1.0]"], ["models.reward.weights", "1 numbers for 0 functions", "per function"]),
    ("ppo", ["models.reward.score=probability"], ["models.reward.score", "that of a label", "add label"]),
    ("ppo", ["models.reward={functions: [a:b], label: good}"], ["models.reward.label", "there is no path"]),
    ("ppo", ["models.reward={path: a, weight: 0, functions: [a:b]}"], ["models.reward.weight", "count for nothing"]),
    ("ppo", ["models.reward.weight=2"], ["models.reward.weight", "no effect", "remove it"]),
    ("reward", ["models.reward.functions=[a:b]"], ["models.reward.functions", "here it is trained", "remove it"]),
    ("reward", ["models.reward.label=good"], ["models.reward.label", "here it is trained"]),
    # placement
    ("ppo", ["placement.value.with=value"], ["placement.value.with", "names the role itself", "policy, reference"]),
    ("ppo", ["placement.value={with: policy, share: policy}"], ["placement.value.share", "beside with"]),
    ("dpo", ["placement.reference.with=value"], ["placement.reference.with", "has no value group", "one of: policy"]),
    ("ppo", ["placement.value.with=policy", "placement.policy.with=value"], ["placement.value.with", "at each other"]),
    ("ppo", ["placement.value.with=reward", "placement.reward.with=policy"],
     ["placement.value.with", "reward itself lives with policy", "write with: policy"]),
    ("ppo", ["placement.value={with: policy, ranks: 2}", "placement.policy.ranks=4"],
     ["placement.value.ranks", "2 differs from the 4 of policy", "or 4"]),
    # data
    ("sft", ["data.train=[]"], ["data.train", "is empty", "builtin:dialogues"]),
    ("dpo", ["data.train.0.format=prompt"], ["data.train.0.format", "dpo cannot learn from prompt rows", "hh_rlhf"]),
    ("ppo", ["data.train.0.format=text"], ["data.train.0.format", "ppo cannot learn from text rows", "prompt"]),
    ("sft", ["data.eval.0={path: x, format: prompt}"], ["data.eval.0.format", "sft cannot learn from prompt rows"]),
    ("sft", ["data.train.0.path=run:runs/a"], ["data.train.0.path", "names a model, not data"]),
    ("sft", ["data.train.0.columns={a: text, b: text}"], ["data.train.0.columns", "same name"]),
    ("sft", ["data.holdout=0.1", "data.eval=[{path: a}]", "data.test=[{path: b}]"], ["data.holdout", "splits nothing"]),
    ("sft", ["evaluation.every=5"], ["evaluation.every", "no rows to evaluate on", "holdout: 0.05"]),
    ("sft", ["evaluation.metrics=[f1]"], ["evaluation.metrics", "no rows to evaluate on", "holdout: 0.05"]),
    ("reward", ["evaluation.metrics=[f1]", "data.holdout=0.1"], ["evaluation.metrics", "answers prompts", "remove it"]),
    ("sft", ["evaluation.general=builtin"], ["evaluation.general", "no rows to evaluate on", "holdout: 0.05"]),
    ("reward", ["evaluation.general=builtin", "data.holdout=0.1"],
     ["evaluation.general", "continues text", "remove it"]),
    ("sft", ["evaluation.patience=2"], ["evaluation.patience", "no metric to go by", "evaluation.best: loss"]),
    ("sft", ["evaluation.best=loss"], ["evaluation.best", "before the end", "evaluation.every: 50"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, best: val/f1}"],
     ["evaluation.best", "f1 is not measured", "evaluation.metrics: [f1]"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, best: loss_by_source/old}"],
     ["evaluation.best", "held-out rows are of one source", "evaluation.best: loss"]),
    ("sft", ["data.holdout=0.1", "data.train=[{path: new.jsonl}, {path: older.jsonl, name: old}]",
             "evaluation={every: 5, best: loss_by_source/ol}"],
     ["evaluation.best", "no held-out source is called ol", "did you mean loss_by_source/old?"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, metrics: [bleu], best: val/f1}"],
     ["evaluation.best", "f1 is not measured", "evaluation.metrics: [bleu, f1]"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, best: val/general_loss}"],
     ["evaluation.best", "general_loss is not measured", "evaluation.general: builtin"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, best: val/rougel}"],
     ["evaluation.best", "rougel is not measured", "did you mean val/rougeL?"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, best: val/what}"],
     ["evaluation.best", "what is not measured", "evaluation.best: loss"]),
    ("reward", ["data.holdout=0.1", "evaluation={every: 5, best: val/f1}"],
     ["evaluation.best", "f1 is not measured", "evaluation.best: loss"]),
    ("ppo", ["evaluation.patience=2"], ["evaluation.patience", "evaluation.best: objective/score"]),
    ("sft", ["data.train.0.format=text", "algorithm.loss_on=assistant"], ["algorithm.loss_on", "no assistant", "all"]),
    # lengths and batches
    ("sft", ["train.max_tokens_per_rank=511"], ["max_tokens_per_rank", "one sequence of 512 tokens", "at least 512"]),
    ("dpo", ["train.max_tokens_per_rank=1023"], ["max_tokens_per_rank", "a pair of 2 x 512 tokens", "at least 1024"]),
    ("ppo", ["train.max_tokens_per_rank=383"], ["max_tokens_per_rank", "384", "rollout.max_new_tokens"]),
    ("ppo", ["rollout.max_new_tokens=257"], ["data.max_length", "+ rollout.max_new_tokens 257", "at least 513"]),
    ("ppo", ["rollout.min_new_tokens=129"], ["rollout.min_new_tokens", "more than max_new_tokens 128", "at most 128"]),
    ("sft", ["data.max_prompt_length=512"], ["data.max_prompt_length", "no room for a response", "at most 511"]),
    ("ppo", ["algorithm.minibatches=65"], ["algorithm.minibatches", "64 samples", "at most 64"]),
    # algorithms
    ("sft", ["optimizer.min_ratio=0.1"], ["optimizer.min_ratio", "has no effect", "cosine"]),
    ("ppo", ["models.value.optimizer.min_ratio=0.1"], ["models.value.optimizer.min_ratio", "has no effect"]),
    ("ppo", ["optimizer={name: adafactor, min_ratio: 0.1}"],
     ["optimizer.min_ratio", "models.policy.engine.zero_stage", "models.value.engine.zero_stage"]),
    ("reward", ["models.reward=null", "models.policy={path: runs/sft}"], ["models.reward", "reward needs it"]),
    ("dpo", ["algorithm={kind: dpo, loss: hinge, label_smoothing: 0.1}"], ["label_smoothing", "no effect", "robust"]),
    ("dpo", ["algorithm.discopop_tau=0.1"], ["algorithm.discopop_tau", "no effect on the loss sigmoid", "discopop"]),
    ("dpo", ["algorithm.loss=exo_pair"], ["algorithm.label_smoothing", "exo_pair is not defined at 0", "0.001"]),
    ("ppo", ["algorithm.kl_horizon=100"], ["algorithm.kl_horizon", "no effect", "kl_target"]),
    ("ppo", ["algorithm.kl_target=6.0", "algorithm.kl_coef=0"], ["algorithm.kl_coef", "stay 0", "0.05"]),
    ("ppo", ["algorithm.target_kl=0.1"], ["algorithm.target_kl", "one optimizer step", "raise epochs"]),
    ("ppo", ["algorithm.dual_clip=1.1"], ["algorithm.dual_clip", "inside the ratio's own clip", "more than 1.2"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "overrides", "parts"), BROKEN, ids=lambda value: str(value)[:60])
def test_broken_rule(recipes: Callable[[str], str], kind: str, overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipes(kind), overrides)
    assert caught.value.exit_status == 2
    for part in parts:
        assert part in str(caught.value)


def test_the_judge_that_is_proposed_as_a_measure_is_one(recipes: Callable[[str], str]) -> None:
    asked = "models.reward={judges: [{name: f, url: 'http://h/v1', model: my/m, token_env: T, asks: comparisons}]}"
    overrides = [asked, "rollout.samples_per_prompt=2", "data.holdout=0.1", "evaluation.every=2"]
    with pytest.raises(UserError) as caught:
        load_recipe(recipes("ppo"), [*overrides, "evaluation.best=objective/score"])
    remedy = shlex.split(caught.value.hint.partition("is a measure: ")[2])
    recipe = load_recipe(recipes("ppo"), [*overrides, *remedy])
    assert recipe.evaluation.best == "rewards/rated"
    assert recipe.models.reward is not None
    rated = recipe.models.reward.judges[1]
    assert (rated.url, rated.model, rated.token_env, rated.weight) == ("http://h/v1", "my/m", "T", 0)


KEPT = [
    ("sft", ["train.epochs=0.5"]),
    ("sft", ["data.max_length=100"]),  # the unused default of max_prompt_length is no contradiction
    ("sft", ["data.holdout=0.1", "evaluation.every=5"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, metrics: [rougeL], best: val/rougeL, patience: 3}"]),
    ("sft", ["data.holdout=0.1", "evaluation={every: 5, general: builtin, best: val/general_loss}"]),
    ("sft", ["data.holdout=0.1", "data.train=[{path: new.jsonl}, {path: older.jsonl, name: old}]",
             "evaluation={every: 5, best: loss_by_source/old}"]),
    ("sft", ["train.max_tokens_per_rank=512"]),
    ("sft", ["train.global_batch_size=1"]),
    ("dpo", ["algorithm={kind: dpo, loss: exo_pair, label_smoothing: 0.001}"]),
    ("dpo", ["algorithm={kind: dpo, loss: discopop, discopop_tau: 0.1}"]),
    ("dpo", ["models.policy.engine={zero_stage: 2, offload_optimizer: cpu}"]),
    ("sft", ["models.policy.engine.sequence_parallel=2", "train.max_tokens_per_rank=64", "data.max_length=128"]),
    ("ppo", ["models.reward={functions: [my.rewards:brevity, a:b], weights: [1.0, -0.5]}"]),
    ("ppo", ["models.reward={path: a/b, label: nothate, score: probability, functions: [a:b]}"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://[::1]:80/a%20b'}, {name: g, url: 'https://h?a={b}'}]}"]),
    ("ppo", ["models.reward={http: [{name: f, url: 'http://h', deadline: 1000}]}", "recovery.deadline_floor_s=1112"]),
    ("ppo", ["models.reference={path: other/model, differs: true}"]),
    ("ppo", ["placement.value.with=policy", "placement.policy.ranks=2", "placement.reference.with=policy"]),
    ("ppo", ["placement.value={with: policy, ranks: 2}", "placement.policy.ranks=2"]),
    ("ppo", ["algorithm.target_kl=0.1", "algorithm.epochs=2"]),
    ("ppo", ["rollout.samples_per_prompt=4", "algorithm.minibatches=256"]),
    ("ppo", ["models.policy.trust_remote_code=true"]),
    ("ppo", ["algorithm.kl_target=6", "algorithm.kl_horizon=100"]),
    ("ppo", ["optimizer.warmup_steps=20"]),  # ten iterations may hold more optimizer steps than that
]  # fmt: skip


@pytest.mark.parametrize(("kind", "overrides"), KEPT, ids=lambda value: str(value)[:60])
def test_kept_rule(recipes: Callable[[str], str], kind: str, overrides: list[str]) -> None:
    recipe = load_recipe(recipes(kind), overrides)
    assert violations(recipe) == []
    check(recipe)


STAGE_0 = "models.policy.engine.zero_stage=0"
SEARCHING = "models.policy.peft={method: adalora, target_r: 4}"
OTHER_METHODS: list[tuple[str, list[str]]] = [
    ("reward", ["models.reward.peft={method: parallel, bottleneck_size: 4}"]),
    ("ppo", [SEARCHING, STAGE_0]),
    ("sft", [SEARCHING]),
    ("sft", [SEARCHING, STAGE_0, "models.policy.dtype=bfloat16"]),
    ("sft", [SEARCHING, STAGE_0, "models.policy.quantization={}"]),
    ("reward", ["models.reward.peft={method: prompt, num_virtual_tokens: 30}"]),
    ("sft", ["models.policy.peft={method: p_tuning, num_virtual_tokens: 30}", "models.policy.init.architecture=t5"]),
    (
        "sft",
        ["models.policy.peft={method: prefix, num_virtual_tokens: 30}", "models.policy.gradient_checkpointing=true"],
    ),
]


@pytest.mark.parametrize(("kind", "overrides"), OTHER_METHODS)
def test_another_method_can_be_pasted_over_the_keys_of_one(
    recipes: Callable[[str], str], kind: str, overrides: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipes(kind), overrides)
    [pasted] = re.findall(r"models\.\w+\.peft=\{[^}]*\}", caught.value.hint)
    load_recipe(recipes(kind), [*overrides, pasted])


def test_check_raises_without_a_file(recipes: Callable[[str], str]) -> None:
    recipe = load_recipe(recipes("ppo"), [])
    broken = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": None})})
    with pytest.raises(UserError, match="neither steps nor epochs"):
        check(broken)
