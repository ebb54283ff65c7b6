"""A base model that is tuned on a chat template stops where the template ends a turn: generator and exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from distft.config.models import Model
from distft.workers.generator_worker import GeneratorWorker
from distft.workers.spec import RoleSpec
from tests.unit.engine.group import Group
from tests.unit.models import tiny

END = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = Path(tmp_path_factory.mktemp("base"))
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"w{END}"]})
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m.content ~ ' w{END} ' }}}}{{% endfor %}}"
    tokenizer.save_pretrained(path)
    return tiny.write_model(path, "llama")


def stops(rank: int, world: int, folder: str, named: tuple[str, ...] | None, target: str) -> dict[str, Any]:
    """What the worker says, what its generator takes, and what it writes."""
    spec = RoleSpec("policy", Model(path=folder, dtype="float32"), "causal", None, longest=32, stop_tokens=named)
    worker = GeneratorWorker(spec=spec, rank=rank, world_size=world)
    said = list(worker.setup(("", 0), folder, False)[0].stop_tokens)
    worker.export(target)
    written = GenerationConfig.from_pretrained(target).eos_token_id
    worker.sync_weights(0)
    assert worker._generator is not None
    return {"said": said, "generator": worker._generator.generator._stop_tokens, "written": written}


@pytest.mark.parametrize(
    ("named", "said", "numbers"), [(None, ["</s>", f"w{END}"], [tiny.EOS, END]), ((f"w{END}",), [f"w{END}"], [END])]
)
def test_the_end_of_a_turn_ends_a_response(
    groups: dict[int, Group], folder: str, tmp_path: Path, named: tuple[str, ...] | None, said: list[str],
    numbers: list[int],
) -> None:  # fmt: skip
    (found,) = groups[1].call(stops, folder, named, str(tmp_path / "final"))
    assert found["said"] == said
    assert list(found["generator"]) == numbers
    assert found["written"] == (numbers if len(numbers) > 1 else numbers[0])
