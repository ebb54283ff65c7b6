"""Chat templates by name, for models that come without one: our own texts, in shapes that are in common use.

Each marks what the assistant says with ``{% generation %}``, and its turns end with a token that stops generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from distft.common.errors import UserError, nearest

_ROLE: Final = "message['role']"
_ASSISTANT: Final = "'assistant'"


def _template(header: str, content: str, end: str, between: str = "''", no_bos: str = "") -> str:
    """A turn is ``header`` (around ROLE), ``content``, ``end``, and what stands ``between`` turns: Jinja expressions.
    ``no_bos``: a BOS that a turn begins with anyway."""
    bos = f"bos_token is defined and bos_token{f' and bos_token != {no_bos}' if no_bos else ''}"
    said = f"{{{{- {content} ~ {end} }}}}"
    return (
        f"{{%- if {bos} %}}{{{{- bos_token }}}}{{%- endif %}}"
        "{%- for message in messages %}"
        "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
        "{{- raise_exception('unknown role ' ~ message['role'] ~ ': use system, user, assistant or tool') }}"
        "{%- endif %}"
        f"{{{{- {header.replace('ROLE', _ROLE)} }}}}"
        f"{{%- if message['role'] == 'assistant' %}}{{% generation %}}{said}{{% endgeneration %}}"
        f"{{%- else %}}{said}{{%- endif %}}"
        f"{{{{- {between} }}}}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {header.replace('ROLE', _ASSISTANT)} }}}}{{%- endif %}}"
    )


# `<|role|>content<eos>`: nothing follows the last EOS.
DEFAULT_TEMPLATE: Final = _template("'<|' ~ ROLE ~ '|>'", "message['content']", "eos_token")
CHATML: Final = _template(
    r"'<|im_start|>' ~ ROLE ~ '\n'", "message['content']", "'<|im_end|>'", r"'\n'", no_bos="'<|im_start|>'"
)
LLAMA3: Final = _template(
    r"'<|start_header_id|>' ~ ROLE ~ '<|end_header_id|>\n\n'", "message['content'] | trim", "'<|eot_id|>'"
)
NAMED: Final[dict[str, str]] = {"default": DEFAULT_TEMPLATE, "chatml": CHATML, "llama3": LLAMA3}
_ENDS: Final[dict[str, str]] = {CHATML: "<|im_end|>", LLAMA3: "<|eot_id|>"}


def resolve_template(value: str, where: str = "") -> str:
    """A name of ``NAMED``, the path of a Jinja file, or the template itself -> the template.

    UserError where it is none of them, or the file cannot be read.
    """
    if value in NAMED:
        return NAMED[value]
    if "{%" in value or "{{" in value:
        return value
    path = Path(value).expanduser()
    names = ", ".join(NAMED)
    if not path.is_file():
        near = nearest(value, NAMED)
        hint = f"did you mean {near}?" if near else f"say {names}, or give a Jinja file"
        raise UserError(f"no chat template {value!r}", where=where, hint=hint)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = f"say {names}, or give a Jinja file"
        raise UserError(f"{path} cannot be read: {error}", where=where, hint=hint) from error


def fitted(template: str, tokenizer: Any) -> str:
    """A template as it suits a tokenizer: where the marker that would end a turn is no token of its, EOS does.

    As plain text a marker would never stop generation.
    """
    marker = _ENDS.get(template)
    if marker is None or tokenizer.eos_token is None or marker in tokenizer.get_vocab():
        return template
    return template.replace(f"'{marker}'", "eos_token")
