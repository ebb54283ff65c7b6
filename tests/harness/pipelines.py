"""A pipeline of three small stages, SFT, DPO from it and KTO from that, and what all three answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.conftest import SMALL, TINY

STAGES = ("sft", "dpo", "kto")
# The second stage is long enough to be stopped in its midst, on a fast machine too.
LONG_SECOND = ("stages.dpo.train.steps=300", "stages.dpo.checkpoint.every=10")
_SMALL = {
    **dict(word.split("=") for word in SMALL if not word.startswith("data.")),
    "optimizer.warmup_steps": "0",
    "data.train": [{"path": "builtin:dialogues", "limit": 64}],
    "data.eval": [{"path": "builtin:dialogues", "limit": 8}],
    "data.test": [{"path": "builtin:dialogues", "limit": 8}],
}


def three_stages(path: Path) -> str:
    """Writes the pipeline's file; returns its name as it is typed."""
    common = _nested({key: json.loads(value) if isinstance(value, str) else value for key, value in _SMALL.items()})
    tiny = _nested({word.partition("=")[0]: int(word.partition("=")[2]) for word in TINY})
    stages = {
        "sft": {"recipe": "sft-tiny", **tiny},
        "dpo": {"recipe": "dpo-tiny", "models": {"policy": {"path": "stage:sft"}}},
        "kto": {"recipe": "kto-tiny", "models": {"policy": {"path": "stage:dpo"}}},
        "judged": {
            "eval": [f"stage:{name}" for name in STAGES], "rows": "answers", "data": ["builtin:dialogues"], "limit": 8,
            "max_new_tokens": 12,
        },
    }  # fmt: skip
    path.write_text(json.dumps({"name": "three", "output_dir": "three", "common": common, "stages": stages}))
    return str(path)


def judged(folder: Path) -> dict[str, Any]:
    """What the pipeline's last stage found; its models by the names of their stages."""
    text = (folder / "judged" / "evaluation.json").read_text()
    found: dict[str, Any] = json.loads(text.replace(f"run:{folder}/", ""))["found"]
    return found


def _nested(flat: dict[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, value in flat.items():
        node = tree
        *parents, last = key.split(".")
        for part in parents:
            found = node.setdefault(part, {})
            assert isinstance(found, dict)
            node = found
        node[last] = value
    return tree
