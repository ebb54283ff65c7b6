"""Small chat templates in the shapes of known families: what they write behind an answer is what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distft.data.tokenizer_training import train_tokenizer


@dataclass(frozen=True)
class Family:
    """``turn`` and ``last``: Jinja for one message ``m``, and for what follows the last one if no answer is asked for.

    ``stop`` ends a turn; ``behind`` follows it at the end of a conversation, as text.
    """

    turn: str
    ask: str
    stop: str
    behind: str = ""
    last: str = ""
    eos: str = "<|endoftext|>"
    specials: Sequence[str] = ()

    @property
    def template(self) -> str:
        """The whole template."""
        end = f"{{% if add_generation_prompt %}}{{{{ {self.ask!r} }}}}{{% else %}}{self.last}{{% endif %}}"
        return f"{{% for m in messages %}}{self.turn}{{% endfor %}}{end}"


_ONLY = "{% if m.role == 'assistant' %}"
FAMILIES: dict[str, Family] = {
    "qwen": Family(
        "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}", "<|im_start|>assistant\n",
        stop="<|im_end|>", behind="\n", specials=["<|im_start|>", "<|im_end|>"],
    ),
    "gemma": Family(
        "{{ '<start_of_turn>' ~ m.role ~ '\n' ~ m.content | trim ~ '<end_of_turn>\n' }}", "<start_of_turn>assistant\n",
        stop="<end_of_turn>", behind="\n", specials=["<start_of_turn>", "<end_of_turn>"],
    ),
    "phi": Family(
        "{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}", "<|assistant|>\n", last="{{ eos_token }}",
        stop="<|end|>", behind="\n<|endoftext|>", specials=["<|user|>", "<|assistant|>", "<|end|>"],
    ),
    "mistral": Family(
        _ONLY + "{{ m.content ~ eos_token ~ ' ' }}{% else %}{{ '[INST] ' ~ m.content ~ ' [/INST]' }}{% endif %}", "",
        stop="</s>", behind=" ", eos="</s>",
    ),
    "llama": Family(
        "{{ '<|header|>' ~ m.role ~ '<|end_header|>\n\n' ~ m.content ~ '<|eot|>' }}",
        "<|header|>assistant<|end_header|>\n\n",
        stop="<|eot|>", specials=["<|header|>", "<|end_header|>", "<|eot|>"],
    ),
    "cohere": Family(
        "{{ '<|turn|>' ~ m.role ~ '<|text|>' ~ m.content ~ '<|end_text|><|end_turn|>' }}", "<|turn|>assistant<|text|>",
        stop="<|end_turn|>", specials=["<|turn|>", "<|text|>", "<|end_text|>", "<|end_turn|>"],
    ),
    "oss": Family(
        "{{ '<|start|>' ~ m.role ~ '<|message|>' ~ m.content }}"
        "{% if not loop.last %}<|end|>{% elif m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}",
        "<|start|>assistant<|message|>",
        stop="<|return|>", specials=["<|start|>", "<|message|>", "<|end|>", "<|return|>"],
    ),
    # These end a turn only with the beginning of the next one.
    "glm": Family(
        "{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}", "<|assistant|>", stop="<|endoftext|>",
        specials=["<|user|>", "<|assistant|>"],
    ),
    "words": Family("{{ m.role ~ ': ' ~ m.content ~ '\n' }}", "assistant: ", stop="<|endoftext|>"),
}  # fmt: skip
ENDLESS = ("glm", "words")


def _rewriting(earlier: str, begin: str = "") -> str:
    """ChatML whose earlier answers are written otherwise than the last one."""
    return (
        begin + "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
        "{% if m.role == 'assistant' and not loop.last %}" + earlier + "{% else %}{{ m.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


# Templates for "qwen"'s tokenizer that write a conversation anew at each turn.
REWRITING: dict[str, str] = {
    "no old thoughts": _rewriting("{{ m.content.split('</think>')[-1] | trim }}"),  # Qwen3
    "old answers trimmed": _rewriting("{{ m.content | trim }}"),  # Llama 3
    "old answers shortened": _rewriting("{{ m.content[:2] ~ m.content[-2:] }}"),
    "turns counted": _rewriting("{{ m.content }}", begin="{{ messages | length }}"),
}  # fmt: skip


def family_tokenizer(name: str, texts: Sequence[str], *, pad: str = "<|pad|>") -> Any:
    """A tokenizer trained on the texts, with the family's template and special tokens; ``pad`` "eos" for its EOS."""
    family = FAMILIES[name]
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": [*family.specials]})
    tokenizer.add_special_tokens({"eos_token": family.eos})
    tokenizer.pad_token = family.eos if pad == "eos" else pad
    tokenizer.chat_template = family.template
    return tokenizer
