"""``distft chat``: what was said before is read again; commands; conversations that become data."""

from __future__ import annotations

import json
from pathlib import Path

from distft.verbs.answering import showable
from tests.harness.speakers import write_speaker
from tests.unit.verbs.conftest import Typed

SHORT = "max_new_tokens=10"
HALF = "\N{REPLACEMENT CHARACTER}"


def kept(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text().splitlines()]


def test_each_turn_reads_those_before(speaker: str, distft: Typed, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    status, output, error = distft("chat", speaker, SHORT, "--output", file, stdin="My coat.\nAnd now?\n")
    [turns] = kept(file)
    assert (status, error) == (0, "")
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert output == "".join(f"{showable(turns[place]['content']).rstrip(HALF)}\n" for place in (1, 3))
    # The second turn's answer is that to the whole conversation, by the draws of its turn.
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join([json.dumps({"prompt": "other"}), json.dumps({"prompt": turns[:3]})]))
    _, again, _ = distft("generate", speaker, SHORT, "--prompts", rows, "--json")
    assert json.loads(again.splitlines()[1])["completion"] == turns[3]["content"]


def test_commands(speaker: str, distft: Typed, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    lines = ["one", "/undo", "two", "/reset", "three", "/system Be kind.", "four", "/nonsense", "/quit", "five"]
    status, _, error = distft("chat", speaker, SHORT, "--output", file, stdin="\n".join(lines))
    said = [[turn["content"] for turn in turns if turn["role"] != "assistant"] for turns in kept(file)]
    assert (status, said) == (0, [["two"], ["three"], ["Be kind.", "four"]])
    assert error.startswith("/reset begins anew")


def test_several_models_keep_their_own_words(speaker: str, other_speaker: str, distft: Typed, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    _, output, _ = distft("chat", speaker, other_speaker, SHORT, "--output", file, stdin="Hello\nAnd?\n")
    one, other = kept(file)
    assert one[1] != other[1]
    assert output == "".join(
        f"{name}: {showable(turns[place]['content'])}\n"
        for place in (1, 3)
        for name, turns in ((speaker, one), (other_speaker, other))
    )


def test_a_turn_that_is_too_long_is_forgotten_and_the_talk_goes_on(distft: Typed, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "short"
    write_speaker(folder)
    config = AutoConfig.for_model("gpt2", vocab_size=400, n_embd=16, n_layer=1, n_head=2, n_positions=40)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    status, output, error = distft("chat", str(folder), SHORT, stdin=f"{'word ' * 60}\nHi\n")
    assert (status, error.count("has learned 40 positions"), error.count("(/reset begins anew)")) == (0, 1, 1)
    assert output
