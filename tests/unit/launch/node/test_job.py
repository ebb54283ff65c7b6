"""What a node launcher is told, and the environment and address that it gives to its children."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

import distft
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster, load_cluster
from distft.launch.node.__main__ import main
from distft.launch.node.environment import node_environment, passed_on
from distft.launch.node.job import job_of, parsed, resources, seconds_left, with_task
from distft.launch.node.network import Address, interfaces, node_address, source_towards
from distft.launch.node.node_ray import NodeRay, object_store_bytes
from distft.launch.on_ray.private import private_folder

MINE = {"SLURMD_NODENAME": "n2", "SLURM_NODEID": "0", "SLURM_RESTART_COUNT": "3"}
LAUNCH = ("--launch", "/run/launch/7.3", "--nodes", "n1,n2,n3")


def test_a_node_finds_its_number_by_its_name() -> None:
    job = job_of(
        [*LAUNCH, "--time-left", "10:00", "--kill-wait", "45", "sft-tiny", "--cluster", "slurm-cpu", "seed=2"], MINE
    )
    assert (job.number, job.name, job.restart, job.kill_wait) == (1, "n2", 3, 45.0)
    assert job.overrides == ("seed=2",)
    assert job.recipe.seed == 2
    assert job.cluster.name == "slurm-cpu"
    assert job.end_time is not None


def test_without_a_cluster_it_is_what_is_there_and_without_a_limit_no_end() -> None:
    job = job_of([*LAUNCH, "--time-left", "UNLIMITED", "sft-tiny"], {**MINE, "SLURM_JOB_END_TIME": "4294967294"})
    assert job.cluster_name == "ray-existing"
    assert job.end_time is None


def test_the_end_as_slurm_says_it_wins() -> None:
    job = job_of([*LAUNCH, "--time-left", "1:00:00", "sft-tiny"], {**MINE, "SLURM_JOB_END_TIME": "1800000000"})
    assert job.end_time == 1_800_000_000.0


def test_words_stay_words() -> None:
    hostile = ["name=a b", "output_dir=$(id)\n", "x='\"", "seed=1"]
    found = parsed(["sft-tiny", hostile[0], "--cluster", "local", *hostile[1:]])
    assert found.overrides == hostile


@pytest.mark.parametrize("words", [[], ["--clustr", "x", "sft-tiny"], ["--nodes"]])
def test_a_wrong_command_line_is_one_message(words: list[str]) -> None:
    with pytest.raises(UserError):
        parsed(words)


def test_only_an_array_job_has_a_task() -> None:
    words = ["seed={task}", "name=a"]
    assert with_task(parsed(["x", *words]), {"SLURM_ARRAY_TASK_ID": "12"}) == ["seed=12", "name=a"]
    assert with_task(parsed(["x"]), {}) == []


@pytest.mark.parametrize(("text", "expected"), [
    ("1-02:03:04", 93_784.0), ("02:03:04", 7384.0), ("3:04", 184.0), ("0:07", 7.0), ("UNLIMITED", None), ("", None),
    ("INVALID", None), ("x-1:00", None),
])  # fmt: skip
def test_time_left_as_squeue_says_it(text: str, expected: float | None) -> None:
    assert seconds_left(text) == expected


def test_where_prints_the_run_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--where", "sft-tiny", f"output_dir={tmp_path}/a b"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a b/\n"
    assert main(["--where", "sft-tinny"]) == 2
    assert "did you mean sft-tiny?" in capsys.readouterr().err


# ---- what the job has of the node


def test_resources_are_slurms_not_the_machines() -> None:
    environment = {"SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_NODE": "512", "CUDA_VISIBLE_DEVICES": "0,3"}
    assert resources(environment, load_cluster("ray-existing")) == (3, 2, 512 * 2**20)
    assert resources(environment, load_cluster("slurm-cpu")) == (3, 0, 512 * 2**20), "a file without GPUs"
    per_cpu = {"SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_CPU": "100", "CUDA_VISIBLE_DEVICES": ""}
    assert resources(per_cpu, load_cluster("ray-existing")) == (3, 0, 300 * 2**20)


def test_all_of_the_memory_is_the_machines() -> None:
    cpus, _, memory = resources({"SLURM_MEM_PER_NODE": "0", "CUDA_VISIBLE_DEVICES": ""}, load_cluster("ray-existing"))
    assert cpus >= 1
    assert memory > 2**30


def test_the_object_store_keeps_to_shared_memory() -> None:
    assert object_store_bytes(10**15) < 10**15 * 0.3
    assert object_store_bytes(2**20) >= 75 * 2**20, "less would be refused by Ray"


# ---- the environment


def cluster(**changed: object) -> Cluster:
    return Cluster.model_validate(
        {"name": "c", "kind": "slurm", "nodes": 1, "node": {"cpus": 1, "gpus": 0, "memory_gib": 1}, **changed}
    )


LOGIN = {
    "PATH": "/usr/bin", "HOME": "/home/me", "HF_HOME": "/hf", "NCCL_DEBUG": "INFO", "LC_ALL": "C", "HF_TOKEN": "secret",
    "WANDB_API_KEY": "secret", "WANDB_MODE": "offline", "AWS_SECRET_ACCESS_KEY": "secret", "RAY_ADDRESS": "elsewhere:1",
    "LD_PRELOAD": "/evil.so", "BASH_FUNC_x%%": "() { :; }", "SLURM_PROCID": "3", "SLURM_JOB_ID": "9", "MY_OWN": "1",
    "WANDB_TOKEN": "secret",
}  # fmt: skip


def test_only_what_is_allowed_goes_on() -> None:
    assert set(passed_on(LOGIN, cluster())) == {
        "PATH", "HOME", "HF_HOME", "NCCL_DEBUG", "LC_ALL", "WANDB_MODE", "SLURM_JOB_ID",
    }  # fmt: skip


def test_a_secret_goes_on_by_its_name_in_the_cluster_file() -> None:
    found = passed_on(LOGIN, cluster(environment={"HF_TOKEN": None, "MY_OWN": "2"}))
    assert (found["HF_TOKEN"], found["MY_OWN"]) == ("secret", "2")
    with pytest.raises(EnvironmentFallsShort, match="NOT_SET is to be passed on, but is not set in the job"):
        passed_on(LOGIN, cluster(environment={"NOT_SET": None}))


def test_ray_and_the_driver_get_the_token_by_path_and_the_interface(tmp_path: Path) -> None:
    found = node_environment(LOGIN, cluster(), Address("10.0.0.1", "eth7"), tmp_path, tmp_path / "token")
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert "RAY_ADDRESS" not in found
    assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == ("eth7", "eth7")
    assert found["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_the_children_of_a_checkout_are_of_that_checkout(tmp_path: Path) -> None:
    """Another copy may be installed in the Python that runs them."""
    here = str(Path(distft.__file__).parents[1])
    for before, after in (({}, here), ({"PYTHONPATH": "/site"}, f"{here}:/site")):
        found = node_environment({**LOGIN, **before}, cluster(), Address("10.0.0.1", "eth7"), tmp_path, tmp_path / "t")
        assert found["PYTHONPATH"] == after


def test_a_sites_own_interface_stays_unless_the_cluster_file_names_one(tmp_path: Path) -> None:
    site = {**LOGIN, "NCCL_SOCKET_IFNAME": "=ib0"}
    found = node_environment(site, cluster(), Address("10.0.0.1", "eth7"), tmp_path, tmp_path / "t")
    assert found["NCCL_SOCKET_IFNAME"] == "=ib0"
    named = cluster(network={"interface": "ib1"})
    found = node_environment(site, named, Address("10.0.0.1", "ib1"), tmp_path, tmp_path / "t")
    assert found["NCCL_SOCKET_IFNAME"] == "ib1"


# ---- the address


def loopback() -> str:
    return next(name for ip, name in interfaces().items() if ip == "127.0.0.1")


def test_a_single_node_may_use_loopback_and_a_named_interface_decides() -> None:
    assert node_address(None, name="no-such-host.invalid", others=[], head=None).ip in interfaces()
    assert node_address(loopback(), name="x", others=["y"], head=None) == Address("127.0.0.1", loopback())


def test_a_missing_interface_names_those_there_are() -> None:
    with pytest.raises(EnvironmentFallsShort, match=f"no interface ib9.*there are.*{loopback()}"):
        node_address("ib9", name="n1", others=[], head=None)


def test_a_worker_takes_the_address_that_leads_to_the_head() -> None:
    own = next((ip for ip in interfaces() if not ip.startswith("127.")), None)
    if own is None:
        pytest.skip("this machine has no address but loopback")
    assert node_address(None, name="x", others=["y"], head=own).ip == own
    assert source_towards("no-such-host.invalid") is None
    assert socket.inet_aton(own)


# ---- the private folder


def test_the_private_folder_is_private_and_short(tmp_path: Path) -> None:
    folder = private_folder(None, "f00")
    try:
        assert (folder.stat().st_mode & 0o777, (folder / "token").stat().st_mode & 0o777) == (0o700, 0o600)
        assert (folder / "token").read_text() == "f00"
        long = tmp_path / ("x" * 60)
        long.mkdir()
        second = private_folder(str(long), "f00")
        assert len(os.fsencode(second)) <= 38
    finally:
        for one in (folder, second):
            with NodeRay(one, {}, Address("127.0.0.1", "lo"), 0):
                pass  # never started: the end clears the folder away
            assert not one.exists()
