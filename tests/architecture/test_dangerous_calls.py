"""The package calls nothing that runs what it reads: no pickles, no shells, no archives, no code out of texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# What runs what it is given, or writes where that says.
FORBIDDEN = {
    "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive",
    "numpy.load", "np.load", "torch.hub.load", "jinja2.Template", "Template", "tempfile.mktemp", "joblib.load",
    "__import__", "pickle.Unpickler", "runpy.run_path", "runpy.run_module",
}  # fmt: skip
# A copy of the fork server becomes the worker whose script Ray started: that is what it is for.
MEANT = {"distft/groups/fork_server.py": ["runpy.run_path"]}


def imported(tree: ast.AST) -> dict[str, str]:
    """The whole name of what a file's imports bring in under another."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.asname: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return names


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call, and the whole name of what is called."""
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield (names.get(first, first) + dot + rest).removeprefix("builtins."), node


def dangers(text: str) -> list[str]:
    """What a file's text calls that it should not."""
    found = []
    for name, call in calls(ast.parse(text)):
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in FORBIDDEN:
            found.append(name)
        if name == "torch.load" and words.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if words.get("shell", "False") != "False":
            found.append(f"{name}(shell=...)")
        if words.get("allow_pickle", "False") != "False":
            found.append(f"{name}(allow_pickle=...)")
        if name.endswith("Environment") and "autoescape" not in words:
            found.append(f"{name} without autoescape")
    return found


def test_the_package(root: Path) -> None:
    files = sorted((root / "distft").rglob("*.py"))
    assert len(files) > 300
    found = {str(path.relative_to(root)): dangers(path.read_text()) for path in files}
    assert {path: calls for path, calls in found.items() if calls} == MEANT


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)", "pickle.loads(x)", "torch.load(p)", "torch.load(p, weights_only=False)", "yaml.load(x, Loader)",
        "subprocess.run(x, shell=True)", "np.load(p, allow_pickle=True)", "Environment(loader=x)", "tarfile.open(p)",
        "from pickle import loads\nloads(x)", "import pickle as p\np.loads(x)", "from os import system\nsystem(x)",
        "__import__('os').system(x)", "import builtins\nbuiltins.exec(x)", "from torch import load\nload(p)",
        "import runpy\nrunpy.run_path(p)", "pickle.Unpickler(p)", "import numpy as np\nnp.load(p)",
        "from jinja2 import Template\nTemplate(x)",
    ],
)  # fmt: skip
def test_it_finds(text: str) -> None:
    assert dangers(text)
