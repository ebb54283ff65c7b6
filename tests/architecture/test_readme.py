"""Every command in the documentation is one that the program takes; every path it names is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distft.arguments import parse
from distft.cli import main
from distft.common.errors import UserError
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe, shipped_pipelines, shipped_recipes
from distft.config.pipeline import is_pipeline, load_pipeline
from distft.config.schema import recipe_keys
from distft.planning.memory import peak
from distft.planning.plan import make_plan
from tests.harness.support import support_table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("cluster_configs", "distft", "launchers", "slurm", "tests")
BESIDE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md"))
RECIPES = (ROOT / "distft" / "recipes" / "README.md").read_text(encoding="utf-8")
PLAN = (ROOT / "cluster_configs" / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [README, *(path.read_text(encoding="utf-8") for path in BESIDE)]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", "\n".join(DOCUMENTS), re.DOTALL)
LINES = [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [part.strip() for line in LINES for part in line.split("&&") if part.strip().startswith("distft ")]
WITHIN = sorted(set(re.findall(r"`(distft [^`]+)`", re.sub(r"```.*?```", "", "\n".join(DOCUMENTS), flags=re.DOTALL))))
MOST_LINES = 200


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where commands are typed: with the copies that documents tell to make."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in dict.fromkeys(command for command in COMMANDS if command.startswith("distft recipes copy ")):
            assert main(shlex.split(command)[1:]) == 0
        yield folder


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES, "what is for some readers goes beside what it describes"


def test_the_first_two_blocks_are_install_and_test() -> None:
    assert LINES[0].endswith("pip install . && distft quickstart")
    assert LINES[1] == "tests/run"
    assert (ROOT / "tests" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_taken(command: str) -> None:
    parsed = parse(shlex.split(command)[1:])
    if getattr(parsed, "recipe", None) and "{task}" not in command:  # filled in for each job of an array
        load = load_pipeline if is_pipeline(parsed.recipe) else load_recipe
        assert load(parsed.recipe, parsed.overrides).name


def refusal(command: str) -> str:
    """Why a command is not taken; empty where it is, or is right so far and lacks arguments."""
    try:
        parse(shlex.split(command)[1:])
    except UserError as error:
        return "" if "arguments are required" in error.what else str(error)
    return ""


@pytest.mark.parametrize("command", WITHIN)
def test_commands_within_sentences_are_taken(command: str) -> None:
    """A verb alone is its name; what stands behind it is what it takes."""
    assert refusal(command) == ""


@pytest.mark.parametrize("command", ["distft trian", "distft report one --wide", "distft plan sft-tiny --node 2"])
def test_what_is_not_taken_is_refused(command: str) -> None:
    assert refusal(command)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("distft plan ")])
def test_plans_are_drawn(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One may say that nothing fits (2), none may fail; a cluster that runs elsewhere cannot be asked here."""
    if load_cluster(parse(shlex.split(command)[1:]).cluster).kind != "ray":
        assert main(shlex.split(command)[1:]) in (0, 2)
        assert "memory of one rank" in capsys.readouterr().out


@pytest.mark.parametrize("command", [one for one in COMMANDS if re.match(r"distft submit .* --dry-run", one)])
def test_what_would_be_submitted_is_printed_anywhere(
    command: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No Slurm, no Ray, no address: as the lines stand."""
    before = sorted(workplace.iterdir())
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert main(shlex.split(command)[1:]) == 0
    told = capsys.readouterr()
    assert "sbatch" in told.out or "entrypoint" in told.out
    assert told.err == ""
    assert sorted(workplace.iterdir()) == before


LORA = ("models.policy.peft.method=lora", "placement.reference.share=policy")
NF4 = (*LORA, "models.policy.quantization.method=nf4")
LARGE = "meta-llama/Meta-Llama-3-70B-Instruct"
DPO_70B = (f"models.policy.path={LARGE}",)
PPO_70B = (*DPO_70B, f"models.reward.path={LARGE}", "rollout.weights=sharded")


@pytest.mark.parametrize(("label", "plans"), [
    ("DPO 8B / 70B, LoRA", [("llama3-dpo", LORA), ("llama3-dpo", (*LORA, *DPO_70B))]),
    ("DPO 8B / 70B, NF4", [("llama3-dpo", NF4), ("llama3-dpo", (*NF4, *DPO_70B))]),
    ("PPO 8B LoRA", [("llama3-ppo", LORA)]),
    ("PPO 70B LoRA / NF4", [("llama3-ppo", (*LORA, *PPO_70B)),
                            ("llama3-ppo", (*NF4, *PPO_70B, "models.reward.quantization.method=nf4"))]),
])  # fmt: skip
def test_the_table_of_adapters_is_what_the_plan_says(label: str, plans: list[tuple[str, tuple[str, ...]]]) -> None:
    cluster = load_cluster("slurm-h100").model_copy(update={"nodes": 1})
    made = [make_plan(load_recipe(name, list(overrides)), cluster) for name, overrides in plans]
    row = next(line for line in PLAN.splitlines() if line.startswith(f"| {label}"))
    _, _, fewest, peaks, seconds, _ = (cell.strip() for cell in row.split("|"))
    assert fewest.split(" / ") == [str(plan.smallest.total) for plan in made if plan.smallest]
    assert all(plan.fits and plan.estimate for plan in made)
    said = [float(number) for number in peaks.split(" (")[0].split(" / ")]
    assert said == [pytest.approx(peak(plan.memory["policy"].items, "device") / 2**30, abs=0.51) for plan in made]
    times = [plan.estimate.seconds for plan in made if plan.estimate]
    assert [float(number) for number in seconds.split(" / ")] == [pytest.approx(time, rel=0.01) for time in times]


def test_all_verbs_are_shown() -> None:
    shown = {shlex.split(command)[1] for command in COMMANDS}
    assert shown == {
        "quickstart", "recipes", "plan", "train", "chat", "generate", "eval", "export", "submit", "status", "logs",
        "cancel", "doctor", "report", "compare", "checkpoints", "schema", "data", "collect", "sync", "completion",
        "replay", "bisect", "fetch",
    }  # fmt: skip


def test_the_recipe_shown_is_valid(tmp_path: Path) -> None:
    shown = [
        block for kind, block in BLOCKS if kind == "yaml" and "stages:" not in block and "method: random" not in block
    ]
    assert len(shown) == 1
    path = tmp_path / "my-dpo.yaml"
    path.write_text(shown[0])
    assert load_recipe(str(path)).algorithm.kind == yaml.safe_load(shown[0])["algorithm"]["kind"]


def test_the_pipeline_shown_is_valid(tmp_path: Path) -> None:
    [shown] = [block for kind, block in BLOCKS if kind == "yaml" and "stages:" in block]
    path = tmp_path / "my-pipeline.yaml"
    path.write_text(shown)
    needs = [stage.needs for stage in load_pipeline(str(path)).stages]
    assert needs == [(), ("sft",), ("sft", "reward"), ("sft", "ppo", "reward")]


def test_every_shipped_recipe_is_named() -> None:
    names = [name for name, _ in [*shipped_recipes(), *shipped_pipelines()]]
    assert names
    for name in names:
        assert f"`{name}`" in RECIPES


def test_the_table_of_methods_is_what_they_declare() -> None:
    lines, table = RECIPES.splitlines(), support_table()
    start = lines.index(table[0])
    assert lines[start : start + len(table)] == table, "python -m tests.harness.support prints it"
    assert not lines[start + len(table)].startswith("|")


SECTIONS = ("algorithm", "models", "placement", "data", "optimizer", "train", "rollout", "checkpoint", "recovery",
            "evaluation", "tracking")  # fmt: skip
KEYS = [re.sub(r" \(\w+\)", "", key.name) for key in recipe_keys()]
NAMED_KEYS = sorted(set(re.findall(rf"`((?:{'|'.join(SECTIONS)})(?:\.[a-z0-9_]+)+)(?:[=:`])", "\n".join(DOCUMENTS))))


@pytest.mark.parametrize("named", NAMED_KEYS)
def test_keys_named_are_keys(named: str) -> None:
    """The schema tells a section where it first stands: roles have the policy's, the recipe its optimizer."""
    told = [re.sub(r"\.rewards\.\w+", ".rewards.NAME", re.sub(r"\.\d+(?=\.|$)", ".0", named))]
    told.append(re.sub(r"^(models|placement)\.(reference|reward|value|rollout)\b", r"\1.policy", told[0]))
    told.append(re.sub(r"^optimizer\b", "models.policy.optimizer", told[0]))
    told.append(re.sub(r"^data\.(train|eval|test)\.0", "models.policy.init.tokenizer.train_on.0", told[0]))
    assert any(key == one or key.startswith(f"{one}.") for key in KEYS for one in told), named


def test_files_named_are_there() -> None:
    named = re.findall(rf"(?:`|^|[ (])((?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*])", "\n".join(DOCUMENTS))
    assert named
    for path in named:
        assert path == "tests/run" or list(ROOT.glob(path)), path
