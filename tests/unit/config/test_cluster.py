"""Cluster files: the shipped ones, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.cluster import Cluster, load_cluster, shipped_clusters

NAMES = (
    "local",
    "one-gpu",
    "one-node-8xa100",
    "one-node-8xh100",
    "ray-existing",
    "slurm-a100",
    "slurm-cpu",
    "slurm-h100",
)
SLURM = "name: x\nkind: slurm\nnodes: 1\nnode: {cpus: 2, memory_gib: 8}\n"


def test_the_shipped_ones_are_all_there() -> None:
    assert tuple(name for name, _ in shipped_clusters()) == NAMES
    for name, about in shipped_clusters():
        assert load_cluster(name).name == name
        assert len(about) > 10
        assert not about.startswith("name")


def test_files_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SLURM + "slurm: {constraint: 'a100&nvme', time: 1-12}\nenvironment: {HF_TOKEN: null, A: 'b c'}\n"
                    "modules: [cuda/12.8, gcc/13]\n")  # fmt: skip
    cluster = load_cluster(str(path))
    assert cluster.slurm is not None
    assert cluster.slurm.constraint == "a100&nvme"
    assert cluster.modules == ("cuda/12.8", "gcc/13")
    assert cluster.environment == {"HF_TOKEN": None, "A": "b c"}


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("", "holds no mapping", "starts with name:"),
        ("name: x\nkind: locl\n", r"kind \(.*:2\): must be 'local', 'slurm' or 'ray', not 'locl'", "mean local?"),
        ("name: x\n", "kind.*: is missing", "kind: "),
        ("name: x\nkind: local\nnode:\n  cpu: 3\n", r"node.cpu \(.*mine.yaml:4\): unknown key cpu", "mean cpus?"),
        ("name: x\nkind: local\nlearning_rate: 1\n", "unknown key learning_rate", "keys here: name, kind"),
        ("name: x\nkind: local\nnode: {gpus: 2, cpus: 4, memory_gib: 9}\n", "must say what they are", "one node"),
        ("name: x\nkind: local\nnode: {cpus: 1.5}\n", "cpus .*: must be a whole number or 'auto', not 1.5", "cores"),
        ("name: x\nkind: local\nnode: {cpus: 0}\n", "must be at least 1", "cores"),
        ("name: x\nkind: local\nnode: 3\n", "node .*: must be a mapping of keys, not 3", "keys: cpus"),
        ("name: x\nkind: local\nnodes: 2\n", "a local cluster has one node", ""),
        ("name: x\nkind: slurm\n", "a Slurm cluster file says nodes", ""),
        ("name: x\nkind: local\nslurm: {}\n", "belongs to clusters of kind slurm", ""),
        ("name: x\nkind: local\nmodules: [gcc]\n", "`modules` belongs to .* slurm only: a run", "before `distft`"),
        ("name: x\nkind: ray\nmodules: [gcc]\n", "`modules` belongs to .* slurm only: a Ray", "before `ray start`"),
        ("name: x\nkind: ray\ncontainer: {runtime: pyxis, image: i}\n", "`container` belongs to", "before `ray start`"),
        (SLURM + "slurm: {partition: 'a; rm -rf'}\n", "slurm.partition .* is not allowed", "--partition"),
        (SLURM + "slurm: {partition: \"a\\n#SBATCH -x\"}\n", "slurm.partition .* is not allowed", "--partition"),
        (SLURM + "slurm: {time: 1 day}\n", "slurm.time .* is not allowed", "hours:minutes"),
        (SLURM + "environment: {'A B': x}\n", "environment.A B .* is not allowed", ""),
        (SLURM + "environment: {HF_TOKEN: hf_abc}\n", "no secrets here", ""),
        (SLURM + "network: {nccl: {MY_FLAG: x}}\n", "MY_FLAG is no NCCL setting", ""),
        (SLURM + "virtualenv: /v\ncontainer: {runtime: pyxis, image: i}\n", "either `virtualenv` or `container`", ""),
        (SLURM + "modules: cuda\n", "modules .*: must be a list", "modules"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, said: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_cluster(str(path))
    assert hint in str(caught.value)
    assert caught.value.exit_status == 2


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nkind: local\nnode: {cpu: 1}\nnetworks: {}\n")
    with pytest.raises(UserError, match="2 things are wrong") as caught:
        load_cluster(str(path))
    assert "cpus?" in str(caught.value)
    assert "network?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("cpus: 4\n", "did you mean node.cpus?"), ("node: {gpu: 8}\n", "did you mean gpus: 8?")],
)
def test_a_key_in_the_wrong_section_is_told_the_right_one(text: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: x\nkind: local\n{text}")
    with pytest.raises(UserError) as caught:
        load_cluster(str(path))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("lcal", "no shipped cluster file has this name", "did you mean local?"),
        ("nowhere/mine.yaml", "there is no such file", "shipped cluster files: local"),
    ],
)
def test_names_that_are_not_there(name: str, said: str, hint: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_cluster(name)
    assert hint in caught.value.hint


def test_a_cluster_holds_no_hyperparameters() -> None:
    assert set(Cluster.model_fields) == {
        "name", "kind", "nodes", "node", "network", "slurm", "address", "authentication", "modules", "virtualenv",
        "container", "scratch", "environment",
    }  # fmt: skip
