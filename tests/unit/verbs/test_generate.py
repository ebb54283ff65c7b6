"""``distft generate``: the same tokens again, several models, files of prompts, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distft.verbs.answering import showable
from tests.harness.speakers import write_speaker
from tests.unit.verbs.conftest import Typed

HALF = "\N{REPLACEMENT CHARACTER}"
PROMPTS = ("My ladder is dirty.", "Is a coat a good present?", "Where is my kettle?")


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS))
    return path


def test_the_same_seed_says_the_same_alone_and_in_a_file(speaker: str, distft: Typed, prompts: Path) -> None:
    settings = ("max_new_tokens=12", "samples_per_prompt=2")
    _, together, _ = distft("generate", speaker, "--prompts", prompts, "--json", *settings, "max_batch_per_rank=4")
    _, again, _ = distft("generate", speaker, "--prompts", prompts, "--json", *settings)
    _, typed, _ = distft("generate", speaker, *(word for p in PROMPTS for word in ("--prompt", p)), "--json", *settings)
    assert [one["completion"] for one in records(together)] == [one["completion"] for one in records(again)]
    assert [one["completion"] for one in records(together)] == [one["completion"] for one in records(typed)]
    assert len({one["completion"] for one in records(together)}) == 6
    assert [(one["number"], one["sample"]) for one in records(together)] == [(n, s) for n in range(3) for s in range(2)]
    assert records(together)[2]["where"] == f"{prompts}:3"
    _, elsewhere, _ = distft("generate", speaker, "--prompts", prompts, "--json", *settings, "--seed", "2")
    assert [one["completion"] for one in records(elsewhere)] != [one["completion"] for one in records(again)]


def test_it_says_what_transformers_generates_from_the_template(speaker: str, distft: Typed) -> None:
    _, output, _ = distft("generate", speaker, "--prompt", PROMPTS[0], "--greedy", "max_new_tokens=20")
    tokenizer, model = AutoTokenizer.from_pretrained(speaker), AutoModelForCausalLM.from_pretrained(speaker)
    turns = [{"role": "user", "content": PROMPTS[0]}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        made = model.generate(**ids, do_sample=False, max_new_tokens=20)
    expected = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert output == f"{showable(expected.removeprefix(' ')).rstrip(HALF)}\n"


def test_a_plain_prompt_and_a_system_text_are_other_prompts(speaker: str, distft: Typed) -> None:
    ask = ("generate", speaker, "--prompt", PROMPTS[0], "--json", "max_new_tokens=4")
    prompts = [records(distft(*ask, *more)[1])[0]["prompt"] for more in ((), ("--plain",), ("--system", "Be brief."))]
    user = {"role": "user", "content": PROMPTS[0]}
    assert prompts == [[user], PROMPTS[0], [{"role": "system", "content": "Be brief."}, user]]


def test_several_models_answer_side_by_side(speaker: str, other_speaker: str, distft: Typed, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    status, output, _ = distft(
        "generate", speaker, other_speaker, "--prompt", PROMPTS[0], "--output", file, "max_new_tokens=8"
    )
    found = records(file.read_text())
    assert (status, output) == (0, f"2 answers are in {file}\n")
    assert [one["model"] for one in found] == [speaker, other_speaker]
    assert found[0]["completion"] != found[1]["completion"]
    lines = [f"{one['model']}: {showable(one['completion'])}\n" for one in found]
    _, shown, _ = distft("generate", speaker, other_speaker, "--prompt", PROMPTS[0], "max_new_tokens=8")
    assert shown == f"> {PROMPTS[0]}\n{''.join(lines)}\n"


def test_a_data_file_is_read_as_training_reads_it(speaker: str, distft: Typed, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    file.write_text("\n".join(json.dumps(row) for row in ({"messages": turns}, {"messages": turns})))
    _, output, _ = distft("generate", speaker, "--prompts", file, "--limit", "1", "--json", "max_new_tokens=2")
    assert [one["prompt"] for one in records(output)] == [turns[:1]]


def test_prompts_come_through_a_pipe(speaker: str, distft: Typed) -> None:
    status, output, _ = distft("generate", speaker, "max_new_tokens=3", stdin="Hello\n\nHi there\n")
    assert (status, [line for line in output.splitlines() if line.startswith(">")]) == (0, ["> Hello", "> Hi there"])


def test_without_a_template_texts_are_given_as_they_are(distft: Typed, tmp_path: Path) -> None:
    base = write_speaker(tmp_path / "base", template=False)
    ask = ("generate", base, "--prompt", "Hello", "--json", "max_new_tokens=2")
    _, output, said = distft(*ask)
    assert records(output)[0]["prompt"] == "Hello"
    assert "has no chat template: texts are given to it as they are (--chat-template chatml" in said
    _, output, said = distft(*ask, "--chat-template", "chatml", "--chat")
    assert (records(output)[0]["prompt"], said) == ([{"role": "user", "content": "Hello"}], "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt", "x", "temprature=1"), "unknown key temprature\n  did you mean temperature?"),
        (("--prompt", "x", "temperature=0"), "must be greater than 0, not 0"),
        (("--prompt", "x", "--temperature", "0.5"), "keys of the recipe take no dashes\n  write temperature="),
        (("--prompt", "x", "--max-new-tokens=5"), "write max_new_tokens=5"),
        (("--prompt", ""), "a prompt is empty"),
        (("--prompt", "x", "--prompts", "y"), "both --prompt and --prompts"),
        (("--prompt", "x", "--limit", "2"), "is for --prompts PATH"),
        (("--prompts", "nowhere.txt"), "there is no such file"),
        (("--prompt", "x", "--stop", "<|nowhere|>"), "--stop: '<|nowhere|>' is no token of the policy's tokenizer"),
        (("--prompt", "x", "--adapter", "."), "holds no adapter (adapter_config.json)"),
        (("--prompt", "x", "--chat-template", "chatmel"), "did you mean chatml?"),
        (("--prompt", "x", "--output", "nowhere/file.jsonl"), "nowhere/file.jsonl: cannot be written"),
    ],
)
def test_mistakes_get_one_message(
    words: tuple[str, ...], said: str, speaker: str, distft: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, error = distft("generate", speaker, *words)
    assert (status, output) == (2, "")
    assert said in error
    assert "Traceback" not in error


def test_no_file_is_overwritten(speaker: str, distft: Typed, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("mine")
    status, _, error = distft("generate", speaker, "--prompt", "x", "--output", file)
    assert (status, file.read_text()) == (2, "mine")
    assert "is there already" in error


def test_a_pipe_without_a_line_is_told(speaker: str, distft: Typed) -> None:
    status, _, error = distft("generate", speaker, stdin="\n")
    assert status == 2
    assert "nothing is asked\n  --prompt TEXT, --prompts FILE" in error
