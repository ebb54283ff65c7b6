"""Small recipes that are right, one a kind, for tests to break."""

from __future__ import annotations

PPO = """\
format: 1
name: example
output_dir: runs/example
algorithm:
  kind: ppo
models:
  policy:
    path: some/policy
    dtype: float32
  reward:
    path: some/reward
    dtype: float32
data:
  train:
    - path: prompts.jsonl
train:
  steps: 10
"""
SFT = """\
format: 1
name: example
output_dir: runs/example
algorithm: {kind: sft}
models:
  policy:
    init: {hidden_size: 64, num_layers: 2, num_heads: 4, vocab_size: 512}
    dtype: float32
data:
  train: [{path: "builtin:dialogues"}]
train: {steps: 10}
"""
DPO = SFT.replace("kind: sft", "kind: dpo")
REWARD = SFT.replace("kind: sft", "kind: reward").replace("  policy:", "  reward:")
TEXTS = {"ppo": PPO, "sft": SFT, "dpo": DPO, "reward": REWARD}
