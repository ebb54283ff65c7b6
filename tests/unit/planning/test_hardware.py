"""``auto``, and more than is there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import Cluster, load_cluster
from distft.launch.machine import available_cpus, memory_limit, this_machine
from distft.planning.hardware import hardware_of
from distft.planning.machine import Machine
from tests.unit.launch.examples import LAPTOP, gpu_cluster

GIB = 2**30


def local(**node: Any) -> Cluster:
    return Cluster.model_validate({"name": "mine", "kind": "local", "node": node})


def test_auto_is_what_the_machine_has() -> None:
    found = hardware_of(load_cluster("local"), LAPTOP)
    assert (found.nodes, found.cpus, found.gpus, found.memory, found.gpu_memory) == (1, 2, 0, 16 * GIB, 0)
    assert found.slots == 8


def test_gpus_of_the_machine_are_used_where_the_file_says_auto() -> None:
    machine = Machine(cpus=16, memory_gib=64.0, gpus=2, gpu_memory_gib=23.5)
    found = hardware_of(local(gpus="auto"), machine)
    assert (found.gpus, found.slots, found.gpu_memory) == (2, 2, int(23.5 * GIB))
    assert hardware_of(load_cluster("local"), machine).gpus == 2
    assert hardware_of(local(), machine).gpus == 0


def test_a_cards_memory_is_held_against_what_the_file_says() -> None:
    card = {
        "type": "a100",
        "memory_gib": 79.1,
        "bf16_tflops": 312,
        "memory_bandwidth_gbs": 2039,
        "interconnect_gbs": 600,
    }
    cluster = local(gpus=1, gpu=card)
    small, large = (Machine(16, 64.0, gpus=1, gpu_memory_gib=memory) for memory in (39.4, 79.3))
    with pytest.raises(EnvironmentFallsShort, match=r"gpu.memory_gib: 79.1, the smallest GPU has 39.4") as caught:
        hardware_of(cluster, small)
    assert caught.value.hint == "nearest: gpu.memory_gib: 39.4"
    assert hardware_of(cluster, large).gpu_memory == int(79.1 * GIB)
    assert hardware_of(cluster, Machine(16, 64.0, gpus=1)).gpu_memory == int(79.1 * GIB)


def test_rates_of_a_known_card_need_no_file() -> None:
    machine = Machine(cpus=16, memory_gib=64.0, gpus=1, gpu_memory_gib=79.6, gpu_type="NVIDIA H100 80GB HBM3")
    found = hardware_of(load_cluster("local"), machine)
    assert (found.flops, found.memory_bandwidth, found.link, found.nvlink) == (989e12, 3350e9, 450e9, True)


def test_rates_come_from_the_file_in_units_without_prefixes() -> None:
    """900 GB/s both ways are 450 in one; 3200 Gbit/s are 400 GB/s."""
    found = hardware_of(gpu_cluster(), None)
    assert (found.flops, found.memory_bandwidth, found.link, found.nvlink) == (989e12, 3350e9, 450e9, True)
    assert found.network == 400e9
    assert hardware_of(gpu_cluster(bandwidth_gbps=None), None).network == 0
    assert hardware_of(load_cluster("local"), LAPTOP).flops == 0


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (lambda: local(cpus=3), "says cpus: 3, there are 2"),
        (lambda: local(memory_gib=17.0), "says memory_gib: 17.0, there are 16.0"),
        (lambda: load_cluster("one-node-8xh100"), "says cpus: 96, there are 2"),
    ],
)
def test_more_than_is_there_is_refused_with_the_nearest(cluster: Callable[[], Cluster], said: str) -> None:
    with pytest.raises(EnvironmentFallsShort, match=said) as caught:
        hardware_of(cluster(), LAPTOP)
    assert caught.value.hint.startswith("nearest: ")


def test_a_slurm_file_speaks_for_itself() -> None:
    assert hardware_of(gpu_cluster(4), LAPTOP) == hardware_of(gpu_cluster(4), None)


def test_this_machine_is_seen_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = this_machine()
    assert found.cpus == available_cpus() >= 1
    assert found.memory_gib == memory_limit() / GIB > 0
    assert found.environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in found.environment


class Driver:
    """What NVML answers on a machine with three GPUs, by number or UUID."""

    GPUS = (("NVIDIA A100-SXM4-80GB", 80), ("NVIDIA A100-SXM4-80GB", 79), ("NVIDIA H100", 94))

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = {
            "nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlDeviceGetCount": lambda: len(self.GPUS),
            "nvmlDeviceGetHandleByIndex": self.found,
            "nvmlDeviceGetHandleByUUID": lambda name: self.found({"GPU-2": 2}.get(name, 9)),
            "nvmlDeviceGetName": lambda gpu: gpu[0],
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=gpu[1] * GIB),
        }  # fmt: skip
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)

    def found(self, number: int) -> tuple[str, int]:
        if number >= len(self.GPUS):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.GPUS[number]


@pytest.mark.parametrize(
    ("visible", "gpus", "memory", "name"),
    [
        (None, 3, 79, "NVIDIA A100-SXM4-80GB"), ("2", 1, 94, "NVIDIA H100"), ("", 0, 0, ""), ("-1", 0, 0, ""),
        ("GPU-2,0", 2, 80, "NVIDIA H100"), ("1,7,2", 1, 79, "NVIDIA A100-SXM4-80GB"),
    ],
)  # fmt: skip
def test_the_gpus_are_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int, memory: int, name: str
) -> None:
    Driver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = this_machine()
    assert (found.gpus, found.gpu_memory_gib, found.gpu_type) == (gpus, memory, name)


def test_no_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert this_machine().gpus == 0


def test_one_gpu_is_whatever_card_is_there_and_no_other() -> None:
    machine = Machine(16, 128.0, gpus=3, gpu_memory_gib=79.6, gpu_type="NVIDIA A100-SXM4-80GB")
    found = hardware_of(load_cluster("one-gpu"), machine)
    assert (found.gpus, found.flops, found.gpu_memory) == (1, 312e12, int(79.6 * GIB))
    with pytest.raises(EnvironmentFallsShort, match="the cluster file says gpus: 1, there are 0"):
        hardware_of(load_cluster("one-gpu"), LAPTOP)
