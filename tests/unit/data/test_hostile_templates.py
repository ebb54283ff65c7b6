"""Chat templates come with models of strangers: what they try beyond writing text is refused, and nothing is done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.dataset import load_datasets
from tests.reference.tiny_models import train_tokenizer

TALK = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
ATTACKS = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
    "a filter": "{{ messages|attr('__class__')|attr('__init__')() }}",
    "a filter on a text": "{{ ''|attr('__class__')|attr('mro')() }}",
    "a format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "a key": "{{ ''['__class__'].mro() }}",
    "a function": "{{ raise_exception.__globals__['__builtins__']['open']('owned', 'w') }}",
    "a frame": "{{ strftime_now.__code__.co_consts }}",
    "globals of a namespace": "{{ namespace.__init__.__globals__.os.system('touch owned') }}",
    "a change": "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "a file": "{% include '/etc/passwd' %}",
    "a long loop": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "a module": "{% import 'os' as os %}",
    "a name that is none": "{{ os.system('touch owned') }}",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    tokenizer = train_tokenizer(["Why? Because."] * 9, 300)
    data = Data.model_validate({"train": [{"path": "rows.jsonl"}], "max_length": 64, "max_prompt_length": 32})
    tokenizer.chat_template = TALK
    load_datasets(data, "sft", tokenizer)  # it is the attack that is refused
    before = dict(os.environ)
    tokenizer.chat_template = ATTACKS[name] + TALK
    with pytest.raises(UserError, match="chat template"):
        load_datasets(data, "sft", tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
    assert dict(os.environ) == before
