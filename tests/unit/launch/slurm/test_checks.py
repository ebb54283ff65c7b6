"""What Slurm would refuse is refused before it is submitted, with the nearest right thing."""

from __future__ import annotations

from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import Cluster
from distft.launch.slurm.checks import SlurmRefused, ask, check, kinds, seconds
from tests.unit.launch.slurm.slurm_examples import EVERYTHING

# As sinfo --noheader --exact --format=%P|%a|%l|%D|%c|%m|%G prints it.
SINFO = """\
debug*|up|30:00|4|128|515000|(null)
gpu|up|2-00:00:00|6|96|1031000|gpu:a100:8(S:0-1)
gpu|up|2-00:00:00|2|96|1031000|gpu:a100:4,gpu:h100:4
plain|up|infinite|3|32|128000|gpu:2
closed|down|infinite|9|32|128000|(null)
"""


def cluster(nodes: int = 1, gpus: int = 0, kind: str = "a100", cpus: int = 8, gib: float = 8, **slurm: Any) -> Cluster:
    node: dict[str, Any] = {"cpus": cpus, "gpus": gpus, "memory_gib": gib}
    if gpus:
        node["gpu"] = {**EVERYTHING["node"]["gpu"], "type": kind}
    return Cluster.model_validate({"name": "c", "kind": "slurm", "nodes": nodes, "node": node, "slurm": slurm})


def refused(**said: Any) -> str:
    with pytest.raises(UserError) as refusal:
        check(cluster(**said), kinds(SINFO))
    assert refusal.value.exit_status == 2
    return str(refusal.value)


def test_sinfo_is_read() -> None:
    found = kinds(SINFO)
    assert [(kind.partition, kind.default, kind.seconds, kind.nodes) for kind in found[:2]] == [
        ("debug", True, 1800, 4), ("gpu", False, 172_800, 6),
    ]  # fmt: skip
    assert [dict(kind.gpus) for kind in found[:4]] == [{}, {"a100": 8}, {"a100": 4, "h100": 4}, {"": 2}]
    assert found[-1].up is False


@pytest.mark.parametrize("said", [
    {}, {"nodes": 4, "time": "00:30:00"}, {"partition": "gpu", "gpus": 8, "nodes": 6},
    {"partition": "gpu", "gpus": 4, "nodes": 8},
    {"partition": "gpu,plain", "time": "30-0"}, {"partition": "gpu", "gpus": 4, "kind": "h100", "nodes": 2},
    {"partition": "plain", "gpus": 2, "gpus_typed": False}, {"partition": "gpu", "gib": 2000, "exclusive": True},
    {"partition": "debug", "time": "5-0", "qos": "long"},
])  # fmt: skip
def test_what_fits_is_not_refused(said: dict[str, Any]) -> None:
    check(cluster(**said), kinds(SINFO))


def test_a_wrong_partition_names_the_nearest() -> None:
    text = refused(partition="gpus")
    assert "slurm.partition: there is no partition gpus" in text
    assert "did you mean gpu? there are: closed, debug, gpu, plain" in text


def test_too_many_gpus_cpus_nodes_and_too_long() -> None:
    assert "no node with 16 GPUs of type a100; GPUs a node: 4 a100, 8 a100, 4 h100\n  nearest: gpus: 8" in refused(
        partition="gpu", gpus=16
    )
    assert "has 6 such nodes, the cluster file says 7\n  nearest: nodes: 6" in refused(partition="gpu", gpus=8, nodes=7)
    assert "nearest: cpus: 96" in refused(partition="gpu", cpus=97)
    assert "nearest: memory_gib: 502.9" in refused(gib=600)
    text = refused(partition="gpu", time="2-00:00:01")
    assert text.startswith("slurm.time: partition gpu runs no job longer than 2-00:00:00")
    assert 'nearest: time: "2-00:00:00"' in text


def test_nodes_in_reserve_count_too() -> None:
    check(cluster(nodes=3, spare_nodes=1), kinds(SINFO))
    text = refused(nodes=3, spare_nodes=2)
    assert "has 4 such nodes, the cluster file says 5, of them slurm.spare_nodes: 2\n  nearest: nodes: 2" in text
    assert "nearest: slurm.spare_nodes: 0" in refused(nodes=1, spare_nodes=4)


def test_gpus_of_another_type_or_of_none() -> None:
    assert "did you mean type: h100?" in refused(partition="gpu", gpus=4, kind="h10")
    assert "slurm.gpus_typed: false" in refused(partition="plain", gpus=2)
    assert "GPUs a node: none" in refused(partition="debug", gpus=1)


def test_a_closed_partition_and_none_at_all() -> None:
    assert "takes no jobs now" in refused(partition="closed")
    with pytest.raises(UserError, match="no default partition"):
        check(cluster(), kinds(SINFO.replace("*", "")))


@pytest.mark.parametrize(("text", "expected"), [
    ("90", 5400), ("1:30", 90), ("1:00:00", 3600), ("1-0", 86_400), ("2-12", 216_000), ("1-00:30", 88_200),
    ("1-01:01:01", 90_061), ("infinite", None), ("n/a", None), ("", None),
])  # fmt: skip
def test_times_as_slurm_writes_them(text: str, expected: int | None) -> None:
    assert seconds(text) == expected


def test_a_machine_without_slurm_says_so() -> None:
    with pytest.raises(EnvironmentFallsShort, match="no Slurm here: no-such-command is not found"):
        ask(["no-such-command"])


def test_a_refusal_is_told_in_slurms_words_once() -> None:
    with pytest.raises(SlurmRefused) as refusal:
        ask(
            [
                "bash",
                "-c",
                "echo 'sbatch: error: invalid account' >&2; echo 'sbatch: error: invalid account' >&2; exit 1",
            ]
        )
    assert str(refusal.value) == "slurm: bash refused: invalid account"
