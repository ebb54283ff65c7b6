"""The model card in ``final/``: what was trained from what on what, and what held-out rows say of it.

Markdown behind a head that the hub reads. It says nothing that the run folder does not know, and nothing of a run's
time or machine, so that a run that was resumed has the same card as one that was not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from distft.config.adapters.adapter import Adapter
from distft.config.adapters.kinds import ADAPTERS
from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.report.run_data import RunData, part, read_run
from distft.report.verdict import changes, number, rows_judged, sources

CARD = "README.md"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_USE_APART = (
    "",
    "A score is of an answer to a prompt: the prompt in the encoder, the answer in the decoder, the head on the state "
    "behind its last token. The model's own `forward` reads one text on both sides, which it was not trained for.",
    "",
    "```python",
    "import torch",
    'answer_ids = [model.config.decoder_start_token_id, *tokenizer("an answer").input_ids]',
    'told = {**tokenizer("a prompt", return_tensors="pt"), "decoder_input_ids": torch.tensor([answer_ids])}',
    "score = model.classification_head(model.base_model(**told).last_hidden_state[:, -1])",
    "```",
)
_LIBRARIES = ("distft", "torch", "transformers", "deepspeed", "peft")


def write_card(
    run_dir: Path, folder: Path, auto_class: str, *, answers: bool, embeds: bool = False, apart: bool = False
) -> None:
    """The card of the run's result into the folder where it is written; see ``card``."""
    lines = card(read_run(run_dir, max_lines=1), auto_class, answers=answers, embeds=embeds, apart=apart)
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def card(run: RunData, auto_class: str, *, answers: bool, embeds: bool = False, apart: bool = False) -> Iterator[str]:
    """The lines. What the run folder lacks is left out. ``auto_class``: of transformers, which reads the model;
    ``answers``: whether it answers prompts; ``embeds``: whether it turns texts into vectors; ``apart``: whether it
    scores an answer in its decoder, the prompt in its encoder."""
    base = _base(run)
    head = {"library_name": "sentence-transformers" if embeds else "transformers", "tags": ["distft", run.kind]}
    if _HUB_NAME.fullmatch(base) and not Path(base).expanduser().is_dir():  # runs/sft is a folder, and comes first
        head |= {"base_model": base}
    yield from ("---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {run.name}", "")
    yield f"{run.kind.upper()} of {base or 'a model from random weights'} by distft."
    yield ""
    eval_role = "Chosen by" if part(run.recipe, "evaluation").get("best") else "Evaluated on"
    for split, role in (("train", "Trained on"), ("eval", eval_role), ("test", "Judged on")):
        if found := sources(run, split):
            yield f"- {role}: {', '.join(found)}"
    holdout = part(run.recipe, "data").get("holdout")
    if holdout:
        yield f"- Held out of the training rows, by the hash of the prompt: {holdout:.0%}, for eval and for test each"
    yield from _results(run)
    peft = part(part(part(run.recipe, "models"), "policy"), "peft")
    adapter = ADAPTERS.get(str(peft.get("method")), Adapter)
    yield from _use(auto_class, answers=answers, embeds=embeds, adapter=adapter, apart=apart)
    yield from ("", "## The recipe", "", "```yaml", run.recipe_text.strip(), "```", "", _versions(run))
    yield ""
    yield "Licence, intended use and limits: those of the base model and of the data; nobody has added others here."


def _base(run: RunData) -> str:
    models = part(run.recipe, "models")
    role = "policy" if models.get("policy") else next(iter(models), "")
    return str(part(models, role).get("path") or "")


def _results(run: RunData) -> Iterator[str]:
    found = changes(run)
    if not found:
        yield from ("", "No held-out rows were there to judge it by.")
        return
    yield from ("", f"## On {rows_judged(run)}", "", "| metric | before | after |", "|---|---|---|")
    for one in found:
        title = f"{one.title} (`{one.name}`)" if one.title else f"`{one.name}`"
        yield f"| {title} | {number(one.before)} | {number(one.after)} |"


def _use(auto_class: str, *, answers: bool, embeds: bool, adapter: type[Adapter], apart: bool) -> Iterator[str]:
    if embeds:
        yield from ("", "## Use", "", "```python", "from sentence_transformers import SentenceTransformer", "")
        yield from ('vectors = SentenceTransformer("FOLDER").encode(["a text", "another"])', "```")
        return
    yield from ("", "## Use", "", "```python", f"from transformers import AutoTokenizer, {auto_class}", "")
    yield f'model = {auto_class}.from_pretrained("FOLDER")'
    if issubclass(adapter, VirtualTokens):
        yield "from peft import PeftModel  # virtual tokens, which FOLDER's own weights know nothing of"
        yield 'model = PeftModel.from_pretrained(model, "FOLDER/adapter")'
    elif not adapter.merges:
        yield "# without what was trained: adapters that only distft reads, in FOLDER/adapter"
    yield from ('tokenizer = AutoTokenizer.from_pretrained("FOLDER")', "```")
    if apart:
        yield from _USE_APART
    if answers:
        yield from (
            "",
            f"`distft chat FOLDER` talks to it{', `vllm serve FOLDER` serves it' if adapter.merges else ''}.",
        )


def _versions(run: RunData) -> str:
    packages = part(run.environment, "packages")
    named = [f"{name} {packages[name]}" for name in _LIBRARIES if name in packages]
    commit = part(run.environment, "commit").get("id")
    return f"Made with {', '.join(named) or 'versions that are not known'}{f', commit {commit}' if commit else ''}."
