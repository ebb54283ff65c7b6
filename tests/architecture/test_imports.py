"""What the import contracts in pyproject.toml cannot say by themselves."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

TORCH_FREE = ("distft.config", "distft.planning", "distft.launch.slurm")


def contracts(root: Path) -> list[dict[str, object]]:
    with (root / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    assert isinstance(found, list)
    return found


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; relative imports are not resolved but kept as '.'."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add("." if node.level else str(node.module))
    return modules


def test_every_room_has_a_layer(root: Path) -> None:
    """A package that the layers do not name could import anything."""
    named = set(re.findall(r"distft\.[\w.]+", str(next(c for c in contracts(root) if c["type"] == "layers")["layers"])))
    package = root / "distft"
    rooms = {f"distft.{path.stem}" for path in package.glob("*.py")} | {
        f"distft.{path.name}" for path in package.iterdir() if any(path.glob("*.py"))
    }
    rooms -= {"distft.__init__", "distft.__main__", "distft.recipes", "distft.cluster_configs", "distft.slurm"}
    for name in ("checkpoint", "evaluation", "experience"):  # they live on two floors, so file by file
        rooms.remove(f"distft.{name}")
        rooms |= {f"distft.{name}.{path.stem}" for path in (package / name).iterdir() if path.suffix in ("", ".py")}
        rooms -= {f"distft.{name}.__init__", f"distft.{name}.__pycache__"}
    assert rooms - named == set(), "packages without a layer in pyproject.toml [tool.importlinter]"


def test_every_login_node_module_is_under_contract(root: Path) -> None:
    contract = next(c for c in contracts(root) if "login node" in str(c["name"]))
    there = {
        name
        for name in TORCH_FREE
        if (root / name.replace(".", "/")).is_dir() or (root / name.replace(".", "/")).with_suffix(".py").is_file()
    }
    sources = contract["source_modules"]
    assert isinstance(sources, list)
    assert there - set(sources) == set()


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, the first of them again at the end; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle() -> None:
    """Not even through an import within a function."""
    graph = grimp.build_graph("distft", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    assert circle(imports) == []
    assert set(circle(imports | {"distft.batches": {"distft.cli"}})) > {"distft.batches", "distft.cli"}


def test_algorithms_import_torch_and_themselves_only(root: Path) -> None:
    """And Triton, which comes with torch for GPUs, in the one file of kernels."""
    files = sorted((root / "distft/algorithms").rglob("*.py"))
    assert files
    for path in files:
        for module in imported_modules(path):
            top = module.split(".")[0]
            allowed = top in {"torch", *sys.stdlib_module_names} or module.startswith("distft.algorithms")
            allowed |= top == "triton" and path.name == "softmax_kernels.py"
            assert allowed, f"{path.relative_to(root)} imports {module}"
