"""Good input made bad, by a seed: values of another kind, keys gone or renamed, bytes turned, cut out or doubled."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import yaml

# What lies in wait for whoever does not look: other kinds, ends of ranges, other people's places, text that is code.
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.0, -0.5, 1e-300, 1e308, float("inf"),
    float("nan"),
    "", " ", "null", "true", "1", "-1", "1e9", "auto", "never", "a\nb", "a\tb", "\x00", "\x1b[31m", "\u2028", "é" * 40,
    "../../outside", "/etc/passwd", "/dev/null", "/proc/self/mem", "~", "~root/x", ".", "..", "/", "run:", "run:.",
    "🜁", "builtin:", "builtin:../x", "./x.py:X", "os:system", "http://127.0.0.1:1/x", "file:///etc/passwd", "-rf",
    "--help", "$(touch outside)", "`touch outside`", "; touch outside", "{{ 7 * 7 }}", "{% for i in range(9) %}",
    "%s%n", "\\", "x" * 5000, [], {}, [None], [[]], [{}], {"a": 1}, {"": {}}, {"path": "x"}, [1, "a"], ["a"] * 50,
)  # fmt: skip


_PIECES = (
    b"\n", b"\t", b'"', b"{", b"]", b": ", b"- ", b"&a ", b"*a", b"!!python/name:x ", b"\xff", b"<<: ", b"null",
    b"1e999", b"[" * 2000, b"{a: " * 500,
)  # fmt: skip


def mutated_tree(tree: Any, dice: random.Random) -> Any:
    """A copy of the tree with one to three things wrong."""
    made = copy.deepcopy(tree)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        holders = list(_holders(made))
        if not holders:
            return dice.choice(NASTY)
        holder = dice.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = dice.choice(keys)
        _change(holder, key, dice, made)
    return made


def mutated_bytes(content: bytes, dice: random.Random) -> bytes:
    """The bytes with one to three things wrong."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(content) + 1)
        end = min(len(content), at + dice.choice((1, 1, 2, 8, 40)))
        piece = content[at:end]
        how = dice.randrange(6)
        if how == 0 and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :]
        elif how == 1:
            content = content[:at] + content[end:]
        elif how == 2:
            content = content[:end] + piece * dice.choice((1, 3)) + content[end:]
        elif how == 3:
            content = content[:at] + dice.randbytes(dice.choice((1, 4, 16))) + content[at:]
        elif how == 4:
            content = content[:at]
        else:
            content = content[:at] + dice.choice(_PIECES) + content[at:]
    return content


def mutated_yaml(text: str, dice: random.Random) -> bytes:
    """A YAML file, wrong in what it says or how."""
    if dice.random() < 0.35:
        return mutated_bytes(text.encode(), dice)
    return yaml.safe_dump(mutated_tree(yaml.safe_load(text), dice), sort_keys=False, allow_unicode=True).encode()


def mutated_json(text: str, dice: random.Random) -> bytes:
    """A JSON text, wrong in what it says or how."""
    if dice.random() < 0.35:
        return mutated_bytes(text.encode(), dice)
    return json.dumps(mutated_tree(json.loads(text), dice), ensure_ascii=dice.random() < 0.5).encode()


def mutated_lines(lines: list[str], dice: random.Random) -> bytes:
    """JSON lines, one or two of them wrong, or all of the file's bytes."""
    if dice.random() < 0.2:
        return mutated_bytes("\n".join(lines).encode() + b"\n", dice)
    made = [line.encode() for line in lines]
    for _ in range(dice.choice((1, 1, 2))):
        number = dice.randrange(len(made))
        made[number] = mutated_json(lines[number], dice)
    return b"\n".join(made) + b"\n"


def _holders(tree: Any) -> Iterator[Any]:
    """Every mapping and list in a tree that has something in it."""
    if isinstance(tree, dict | list) and tree:
        yield tree
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(inner)


def _change(holder: Any, key: Any, dice: random.Random, tree: Any) -> None:
    how = dice.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        value = holder.pop(key)
        holder[dice.choice((f"{key}s", str(key)[:-1], str(key).upper(), "path", "kind", "", "é"))] = value
    elif how == 2:  # a part from elsewhere
        holder[key] = copy.deepcopy(dice.choice(list(_holders(tree))))
    elif how == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * dice.choice((-1, 0, 1000, 1e12, 0.5))
    elif how == 4 and isinstance(holder[key], str):
        at = dice.randrange(len(holder[key]) + 1)
        holder[key] = holder[key][:at] + str(dice.choice(NASTY)) + holder[key][at:]
    elif how == 5:
        holder[key] = dice.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    else:
        holder[key] = copy.deepcopy(dice.choice(NASTY))
