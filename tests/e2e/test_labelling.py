"""Labelling from beginning to end: answers of a run, ranked by keyboard in a browser by two people, read back, and a
reward model trained from what they said. A recipe collects the answers of its run."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from distft.cli import main
from distft.evaluation.agreement import kendall_tau
from tests.e2e.conftest import SMALL, Start, lines
from tests.harness.browser import BROWSER

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
NUM_PROMPTS, SEED = 10, 3
# Presses the keys that a person would: a name, then the letters of each prompt's answers by length, and Enter. What is
# saved is caught on its way to a file.
PERSON = """
<pre id="caught"></pre><script>
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const name = document.getElementById("labeller");
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { document.getElementById("caught").textContent = text; });
  return "data:,";
};
HTMLAnchorElement.prototype.click = () => {};
name.value = "NAME";
name.dispatchEvent(new Event("change"));
for (const { completions } of JSON.parse(document.getElementById("collection").textContent).items) {
  const length = (place) => completions[place].length;
  const places = completions.map((_, place) => place).sort((a, b) => length(a) - length(b) || a - b);
  if ("NAME" === "Ben") places.splice(0, 2, places[1], places[0]);
  for (const place of places) press("abcdefgh"[place]);
  press("Enter");
}
document.getElementById("save").click();
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the page with")
def test_answers_are_ranked_by_two_and_a_reward_model_learns_it(
    sft: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "labelling"
    words = ["sft-tiny", f"output_dir={sft}", "--limit", str(NUM_PROMPTS), "max_new_tokens=24", "--seed", str(SEED)]
    assert main(["collect", *words, "--output", str(folder)]) == 0
    files = [_labelled(folder, name) for name in ("Ana", "Ben")]
    ranks = [[one["ranks"] for one in map(json.loads, file.read_text().splitlines())] for file in files]
    assert [len(one) for one in ranks] == [NUM_PROMPTS, NUM_PROMPTS]
    capsys.readouterr()
    assert main(["collect", "--read", *map(str, files), "--output", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # Ben exchanges the two shortest: one pair of each prompt's is the other way.
    sizes = [len(order) for order in ranks[0]]
    taus = [1 - 2 / (size * (size - 1) / 2) for size in sizes]
    assert found["tau"] == pytest.approx(sum(taus) / NUM_PROMPTS)
    assert [kendall_tau(a, b) for a, b in zip(*ranks, strict=True)] == pytest.approx(taus)
    assert found["tied_pairs"] == NUM_PROMPTS
    assert found["rows"] == {"pairs": sum(size * (size - 1) // 2 - 1 for size in sizes), "rankings": NUM_PROMPTS}
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert all(len(one["chosen"]) <= len(one["rejected"]) for one in pairs)

    for name, more in (("pairs", ()), ("rankings", ("algorithm.max_answers=4",))):
        rows = f"data.train=[{{path: {folder / name}.jsonl}}]"
        verb = start(
            "train", "reward-tiny", *(word for word in SMALL if not word.startswith("data.")), rows, "data.eval=[]",
            "data.test=[]", f"models.reward.path=run:{sft}", "train.steps=60", "optimizer.learning_rate=1e-3", *more,
            folder=name,
        )  # fmt: skip
        assert verb.end() == 0, verb.output
        accuracies = [line["accuracy"] for line in lines(verb.folder, "metrics") if line["split"] == "train"]
        assert sum(accuracies[-10:]) / 10 > 0.9 > sum(accuracies[:5]) / 5, name


def _labelled(folder: Path, name: str) -> Path:
    """The file that a person of that name saves. Nothing is said on the console, and nothing asked for."""
    page = folder / f"label-{name}.html"
    page.write_text((folder / "label.html").read_text().replace("</body>", PERSON.replace("NAME", name) + "</body>"))
    ran = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / name}",
         "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in ran.stderr, ran.stderr
    caught = re.search(r'<pre id="caught">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert caught, ran.stdout
    path = folder / f"labels-{name}.jsonl"
    path.write_text(html.unescape(caught[1]))
    return path
