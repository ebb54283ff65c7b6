"""Methods: those of the house, and those of somebody else by the address of their class."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distft.common.addresses import file_of
from distft.common.errors import UserError
from distft.config.find_method import built_in_kinds, method_of
from distft.config.load import load_recipe, resolved_yaml
from distft.config.method import PAIRS, PROMPTS, UPDATE_OF_POLICY, NamedLoss, Traits
from distft.config.roles import main_role, roles, unit_size
from distft.data.formats import COLUMNS
from distft.launch.run_folder import require_same_run, write_recipe
from distft.planning.plan import make_plan
from tests.unit.config.examples import DPO
from tests.unit.launch.examples import cpu_cluster

WRITTEN = Path(__file__).parents[2] / "harness" / "outside_method.py"
RECIPE = DPO.replace("{kind: dpo}", "{kind: ./mine.py:Unlikelihood, weight: 0.25}")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with its method beside it; nothing of either is in the working folder."""
    shutil.copy(WRITTEN, tmp_path / "mine.py")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize("kind", built_in_kinds())
def test_a_method_of_the_house(kind: str) -> None:
    """Its name is its file's, its losses are there, its formats are known, and its keys are those of its losses."""
    method = method_of(kind)
    assert method.model_fields["kind"].annotation.__args__ == (kind,)  # type: ignore[union-attr]
    assert set(method.traits.formats) <= set(COLUMNS)
    for loss in method.traits.losses.values():
        assert file_of(loss.address) is not None
        assert set(loss.keys or ()) <= set(method.model_fields)


def test_traits_that_contradict_themselves_are_refused() -> None:
    right = {
        "roles": ("policy",), "trained": ("policy",), "unit": PAIRS, "formats": ("preference",),
        "losses": {"policy": NamedLoss("a:B")}, "phases": (UPDATE_OF_POLICY,),
    }  # fmt: skip
    Traits(**right)  # type: ignore[arg-type]
    wrong: list[tuple[str, dict[str, object]]] = [
        ("not among the roles", {"trained": ("value",)}),
        ("losses are of", {"losses": {}}),
        ("phases name", {"roles": ("reward",), "trained": ("reward",), "losses": {"reward": NamedLoss("a:B")}}),
        ("credit goes with", {"unit": PROMPTS}),
        ("credit goes with", {"credit": "a:b"}),
    ]
    for message, change in wrong:
        with pytest.raises(ValueError, match=message):
            Traits(**(right | change))  # type: ignore[arg-type]


def test_a_method_beside_the_recipe_is_checked_and_planned(recipe: Path) -> None:
    found = load_recipe(str(recipe), [])
    assert found.algorithm.name == "Unlikelihood"
    assert (roles(found), main_role(found), unit_size(found)) == (("policy",), "policy", 2)
    assert found.algorithm.loss_of("policy") == (f"{recipe.parent}/mine.py:UnlikelihoodLoss", {"weight": 0.25})
    plan = make_plan(found, cpu_cluster(cpus=2, nodes=1))
    assert (plan.algorithm, plan.batch.unit, plan.phases) == ("Unlikelihood", "pairs", (("policy",),))


def test_another_process_finds_the_method_again(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "pickled").write_bytes(pickle.dumps(load_recipe(str(recipe), []).algorithm))
    code = "import pickle, sys; print(*pickle.load(open(sys.argv[1], 'rb')).loss_of('policy'))"
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pickled")], capture_output=True, text=True, check=True, cwd="/"
    )
    assert answer.stdout.strip() == f"{recipe.parent}/mine.py:UnlikelihoodLoss {{'weight': 0.25}}"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("algorithm.kind=./mime.py:Unlikelihood", ["algorithm.kind", "there is no file", "did you mean", "/mine.py?"]),
        ("algorithm.kind=./mine.py:Unlikely", ["has no Unlikely", "mine.py:Unlikelihood?"]),
        ("algorithm.kind=./mine.py:UnlikelihoodLoss", ["is no method", "class UnlikelihoodLoss(Method)"]),
        ("algorithm.kind=nobodys.lab:Method", ["there is no module nobodys", "is it installed here?"]),
        ("algorithm.kind=nobodys.lab", ["unknown algorithm kind", "package.module:Class"]),
        ("algorithm.wieght=1", ["unknown key wieght", "did you mean weight?"]),
        ("algorithm.weight=-1", ["algorithm.weight", "at least 0", "weight of the rejected answer's term"]),
        ("models.value.path=a/b", ["models.value", "Unlikelihood has no value model"]),
        ("data.train.0.format=text", ["Unlikelihood cannot learn from text rows", "pairs: preference"]),
    ],
)
def test_what_is_wrong_is_said(recipe: Path, change: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe), [change])
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("import no_such_thing_there", ["cannot be imported: ModuleNotFoundError", "python ", "shows it"]),
        ("1 / 0", ["cannot be imported: ZeroDivisionError"]),
        ("class Unlikelihood: pass", ["is no method"]),
        (WRITTEN.read_text().replace('":UnlikelihoodLoss"', '":Loss"'), ["has no Loss", "it has: "]),
        (WRITTEN.read_text().replace('":UnlikelihoodLoss"', '"no.lab:Loss"'), ["names no.lab:Loss", "not there"]),
    ],
)
def test_a_broken_file_is_the_users_error(tmp_path: Path, code: str, parts: list[str]) -> None:
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    with pytest.raises(UserError) as caught:
        load_recipe(str(tmp_path / "mine.yaml"), [])
    for part in ["algorithm.kind", *parts]:
        assert part in str(caught.value)


def test_changed_code_beside_the_method_is_another_run_too(recipe: Path, tmp_path: Path) -> None:
    """What its file imports from beside itself, by any way of writing, and what that imports."""
    folder = recipe.parent
    (folder / "lab").mkdir()
    for name in ("terms.py", "lab/__init__.py", "lab/deeper.py", "lab/near.py", "unrelated.py"):
        (folder / name).write_text("WEIGHT = 1\n")
    (folder / "terms.py").write_text("from lab import deeper\n")
    (folder / "lab/deeper.py").write_text("from . import near\nfrom .near import WEIGHT\n")
    (folder / "mine.py").write_text("import terms\n" + WRITTEN.read_text())
    run_dir = tmp_path / "run"
    (run_dir / "final").mkdir(parents=True)
    write_recipe(load_recipe(str(recipe), []), run_dir)
    (folder / "unrelated.py").write_text("WEIGHT = 2\n")
    require_same_run(load_recipe(str(recipe), []), run_dir)
    for name in ("terms.py", "lab/__init__.py", "lab/deeper.py", "lab/near.py"):
        former = (folder / name).read_text()
        (folder / name).write_text(f"{former}OTHER = 2\n")
        with pytest.raises(UserError, match="another recipe: algorithm.code"):
            require_same_run(load_recipe(str(recipe), []), run_dir)
        (folder / name).write_text(former)


def test_a_kept_recipe_whose_method_has_moved(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where the file may lie, and finds it there; other code of that name is not taken for it."""
    run_dir, kept = tmp_path / "run", str(tmp_path / "run" / "recipe.yaml")
    run_dir.mkdir()
    write_recipe(load_recipe(str(recipe), []), run_dir)
    code = (recipe.parent / "mine.py").read_text()
    (recipe.parent / "mine.py").unlink()
    with pytest.raises(UserError, match="there is no file .*mine.py\n.*put the file into the run folder, or call from"):
        load_recipe(kept, [])
    elsewhere = tmp_path / "elsewhere"
    for folder in (run_dir, elsewhere):
        folder.mkdir(exist_ok=True)
        (folder / "mine.py").write_text(code)
        monkeypatch.chdir(folder if folder == elsewhere else tmp_path)
        assert load_recipe(kept, []).algorithm.kind == f"{folder}/mine.py:Unlikelihood"
        (folder / "mine.py").unlink()
    (run_dir / "mine.py").write_text(f"{code}OTHER = 1\n")
    with pytest.raises(UserError, match="code is not what this recipe was kept with"):
        load_recipe(kept, [])


def test_changed_code_is_another_run(recipe: Path, tmp_path: Path) -> None:
    """At a resume from the first recipe, and for the recipe that the run keeps."""
    run_dir = tmp_path / "run"
    (run_dir / "final").mkdir(parents=True)
    write_recipe(load_recipe(str(recipe), []), run_dir)
    require_same_run(load_recipe(str(recipe), []), run_dir)
    kept = load_recipe(str(run_dir / "recipe.yaml"), [])
    assert resolved_yaml(kept) == resolved_yaml(load_recipe(str(recipe), []))
    (tmp_path / "mine.py").write_text(WRITTEN.read_text().replace("1e-6", "1e-5"))
    with pytest.raises(UserError, match="another recipe: algorithm.code"):
        require_same_run(load_recipe(str(recipe), []), run_dir)
    with pytest.raises(UserError, match="code is not what this recipe was kept with"):
        load_recipe(str(run_dir / "recipe.yaml"), [])
