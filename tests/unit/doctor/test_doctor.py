"""What the doctor makes of the nodes' answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from distft.config.cluster import Cluster, load_cluster
from distft.doctor import asking, judge
from distft.doctor.asking import Answers, OverRay
from distft.doctor.examine import WANDB_URL, _address, examine, wandb_url
from distft.doctor.findings import Finding, Report
from distft.doctor.judge import Expected
from distft.doctor.node_report import node_report, reachable
from distft.doctor.over_slurm import job_shell, srun_options
from distft.launch.slurm.options import batch_script
from tests.harness.http_server import serving
from tests.unit.launch.slurm.slurm_examples import asked, everything

GIB = 2**30
PACKAGES = {"distft": "0.1", "torch": "2.13", "ray": "2.60", "deepspeed": "0.19", "vllm": "none"}
GPU = {
    "name": "H100", "memory.total": "80000", "memory.used": "10", "temperature.gpu": "40", "compute_mode": "Default",
    "ecc.errors.uncorrected.volatile.total": "0", "clocks_event_reasons.hw_slowdown": "Not Active",
}  # fmt: skip


def report(name: str = "n1", **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name, "time": 1.0, "python": "3.11.7",
        "packages": PACKAGES, "modules": [],
        "cpus": 8, "memory": 64 * GIB, "memory_free": 60 * GIB, "gpus": [],
        "folder": {"seen": True, "written": f"x-{name}", "error": "", "clock": 0.01, "free": 100 * GIB},
        "temporary": 50 * GIB, "shared_memory": 10 * GIB, "open_files": 65536,
        "addresses": {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]},
        "ports": {"taken": [], "range": 28232, "used": 12}, "wandb": None,
    }  # fmt: skip
    return {**found, **changes}


def cluster(**changes: Any) -> Cluster:
    tree = load_cluster("ray-existing").model_dump() | {"nodes": 2}
    return Cluster.model_validate(tree | changes)


def expected(**changes: Any) -> Expected:
    return replace(Expected(cluster(), "/shared", num_nodes=2, gpus=0), **changes)


def states(findings: Iterable[Finding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.state, finding.nodes) for finding in findings]


def test_nodes_that_say_nothing_are_named() -> None:
    both = Answers((report("n1"), report("n2")), {})
    assert states(judge.nodes_answer(both, expected())) == [("ok", ())]
    silent = Answers((report("n1"),), {"n2": "No module named distft"})
    assert states(judge.nodes_answer(silent, expected())) == [("wrong", ("n2",))]
    fewer = Answers((report("n1"),), {})
    assert "1 of 2 answer" in next(iter(judge.nodes_answer(fewer, expected()))).found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"packages": PACKAGES | {"distft": "0.2"}}, "distft 0.1 on n1; 0.2 on n2"),
        ({"packages": PACKAGES | {"distft": ""}}, "missing on n2"),
        ({"packages": PACKAGES | {"vllm": "vllm 0.32.0"}}, "vllm none on n1; vllm 0.32.0 on n2"),
        ({"python": "3.12.1"}, "python 3.11.7 on n1; 3.12.1 on n2"),
    ],
)  # fmt: skip
def test_other_versions_are_wrong(change: dict[str, Any], said: str) -> None:
    (finding,) = judge.versions([report("n1"), report("n2", **change)])
    assert finding.state == "wrong"
    assert said in finding.found
    found = list(judge.versions([report("n1"), report("n2")]))
    assert states(found) == [("ok", ())]
    assert found[0].found.endswith("vLLM: none")


def test_modules_are_what_the_nodes_say() -> None:
    says = everything()  # cuda/12.8, gcc/13
    fine = report("n1", modules=["gcc/13/default", "cuda/12.8"])
    (finding,) = judge.modules([fine], says)
    assert (finding.state, finding.found) == ("ok", "loaded on every node: gcc/13/default, cuda/12.8")
    (finding,) = judge.modules([fine, report("n2", modules=["gcc/130"])], says)
    assert (finding.state, finding.nodes) == ("warning", ("n2",))
    assert finding.found == "cuda/12.8, gcc/13 not among the loaded: gcc/130"
    assert list(judge.modules([report()], cluster())) == []
    (finding,) = judge.nodes_answer(Answers((), {"": "distft: module load gcc/13 failed"}), expected())
    assert "`module avail` shows what there is" in finding.do


def test_less_than_the_cluster_file_says_is_wrong() -> None:
    says = cluster(node={"cpus": 8, "memory_gib": 64.0, "gpus": 0})
    fine, small = report("n1"), report("n2", cpus=4, memory=32 * GIB, memory_free=30 * GIB)
    found = list(judge.processors([fine, small], expected(cluster=says)))
    assert states(found) == [("wrong", ("n2",)), ("wrong", ("n2",))]
    assert found[0].found == "has 4 CPUs of 8"
    assert states(judge.processors([fine], expected(cluster=says))) == [("ok", ())]
    used = report("n1", memory_free=8 * GIB)
    assert states(judge.processors([used], expected())) == [("ok", ()), ("warning", ("n1",))]


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({"ecc.errors.uncorrected.volatile.total": "3"}, "wrong", "3 uncorrected memory errors"),
        ({"temperature.gpu": "95"}, "warning", "95 degrees"),
        ({"clocks_event_reasons.hw_slowdown": "Active"}, "warning", "slowed down"),
        ({"memory.used": "40000"}, "warning", "39.1 of 78.1 GiB are in use"),
    ],
)
def test_a_gpu_that_is_not_well(change: dict[str, str], state: str, said: str) -> None:
    (finding,) = judge.devices([report(gpus=[GPU, GPU | change])], expected(gpus=2))
    assert (finding.state, finding.nodes) == (state, ("n1",))
    assert f"GPU 1: {said}" in finding.found


def test_gpus_are_counted() -> None:
    assert states(judge.devices([report(gpus=[GPU])], expected(gpus=2))) == [("wrong", ("n1",))]
    assert states(judge.devices([report(gpus=[GPU, GPU])], expected(gpus=2))) == [("ok", ())]
    assert states(judge.devices([report()], expected())) == [("ok", ())]
    unknown = GPU | {"ecc.errors.uncorrected.volatile.total": "[N/A]"}
    assert states(judge.devices([report(gpus=[unknown])], expected(gpus=1))) == [("ok", ())]


def test_a_torch_without_gpus_is_named() -> None:
    """The driver shows the GPU all the same."""
    built = report(gpus=[GPU], packages=PACKAGES | {"torch": "2.13.0+cpu"})
    (finding, *_) = judge.devices([built], expected(gpus=1))
    assert (finding.state, finding.found) == ("wrong", "torch 2.13.0+cpu is built for CPUs alone")


def test_nodes_with_other_gpus_are_named() -> None:
    kinds = {"n1": "H100", "n2": "A100", "n3": "H100"}
    reports = [report(name, gpus=[GPU | {"name": kind}]) for name, kind in kinds.items()]
    (finding,) = judge.devices(reports, expected(gpus=1))
    assert finding.state == "warning"
    assert finding.found == "different models: A100 on n2; H100 on n1, n3"
    assert "at its slowest" in finding.do


def folder(**changes: Any) -> dict[str, Any]:
    return report("n2", folder=report()["folder"] | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seen": False}, "what is written here is not seen there"), ({"error": "Read-only file system"}, "Read-only"),
     ({"written": "lost"}, "what is written there is not seen here")],
)  # fmt: skip
def test_the_shared_folder_must_be_one(changes: dict[str, Any], said: str) -> None:
    seen: Callable[[str], bool] = lambda name: name != "lost"  # noqa: E731
    found = list(judge.shared_folder([report("n1"), folder(**changes)], expected(), seen))
    assert states(found) == [("wrong", ("n2",))]
    assert said in found[0].found


def test_room_for_the_planned_checkpoints() -> None:
    reports = [report("n1"), folder(free=5 * GIB)]
    enough = list(judge.shared_folder(reports, expected(disk=4 * GIB), lambda _: True))
    assert states(enough) == [("ok", ()), ("ok", ())]
    short = list(judge.shared_folder(reports, expected(disk=6 * GIB), lambda _: True))
    assert states(short)[1] == ("wrong", ())
    assert short[1].found == "5.0 GiB free, the planned checkpoints take 6.00"


@pytest.mark.parametrize(("offset", "state"), [(0.2, "ok"), (5.0, "warning"), (-300.0, "wrong")])
def test_clocks(offset: float, state: str) -> None:
    (finding,) = judge.clocks([report("n1"), folder(clock=offset)])
    assert finding.state == state
    if state != "ok":
        assert f"n2 {offset:+.1f}" in finding.found


def test_ports_temporary_folders_and_interfaces() -> None:
    assert states(judge.ports([report(ports={"taken": [6379], "range": 100, "used": 5})])) == [("ok", ())]
    assert states(judge.ports([report(ports={"taken": [], "range": 100, "used": 90})])) == [("wrong", ("n1",))]
    assert states(judge.local_folders([report()])) == [("ok", ())]
    assert states(judge.local_folders([report(shared_memory=64 * 2**20)])) == [("warning", ("n1",))]
    assert states(judge.local_folders([report(open_files=1024)])) == [("warning", ("n1",))]
    named = cluster(network={"interface": "ib0"})
    (finding,) = judge.interfaces([report()], named)
    assert (finding.state, finding.do) == ("wrong", "there are: eth0")
    assert list(judge.interfaces([report()], cluster())) == []
    assert states(judge.interfaces([report(addresses={"ib0": ["10.1.0.1"]})], named)) == [("ok", ())]


def test_wandb_never_ends_a_run() -> None:
    assert states(judge.wandb([report(wandb="timed out")], "online")) == [("warning", ("n1",))]
    assert states(judge.wandb([report(wandb="")], "online")) == [("ok", ())]
    assert states(judge.wandb([report()], "offline")) == [("ok", ())]


class _Server(BaseHTTPRequestHandler):
    """Answers with the status that the path names, and keeps what it was asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(int(self.path.split("/")[-2]))
        self.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a web server of our own answers; no proxy is set."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    _Server.asked.clear()
    with serving(_Server) as url:
        yield url


def test_a_server_that_answers_is_reachable_whatever_it_says(server: str) -> None:
    assert [reachable(f"{server}/{status}") for status in (200, 401, 404, 500)] == [""] * 4
    assert _Server.asked == ["/200/healthz", "/401/healthz", "/404/healthz", "/500/healthz"]


def test_wandb_is_reached_through_the_proxy_that_the_environment_names(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server)
    assert reachable("http://wandb.example/200") == ""
    assert _Server.asked == ["http://wandb.example/200/healthz"]


def test_a_server_that_does_not_answer_is_said_with_the_reason(server: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        assert "Connection refused" in reachable(f"http://127.0.0.1:{nobody.getsockname()[1]}")
    assert "no host given" in reachable("http://")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timed out" in reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2)


def wandb_finding(cluster_file: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> Finding:
    """What the doctor finds, asking this machine; the first of its rounds is enough."""
    monkeypatch.setenv("WANDB_MODE", mode)
    says = load_cluster(str(cluster_file))
    url = wandb_url(says) if mode == "online" else ""
    question = {"folder": str(cluster_file.parent), "nonce": "x", "wandb_url": url}
    (finding,) = judge.wandb(asking.Here(0).ask("report", question).said, mode)
    return finding


def test_wandb_on_a_node(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of the doctor's asks the server that the cluster file names, and none where nothing is sent."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nkind: local\nenvironment: {{WANDB_BASE_URL: '{server}/200'}}\n")
    assert wandb_finding(file, monkeypatch, "online").found == "answers"
    assert _Server.asked == ["/200/healthz"]
    for mode in ("offline", "disabled"):
        finding = wandb_finding(file, monkeypatch, mode)
        assert (finding.state, finding.found.startswith(f"mode {mode}: nothing is sent")) == ("ok", True)
    assert len(_Server.asked) == 1
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        file.write_text(f"name: mine\nkind: local\nenvironment: {{WANDB_BASE_URL: '{address}'}}\n")
        refused = wandb_finding(file, monkeypatch, "online")
    assert (refused.state, refused.nodes) == ("warning", (os.uname().nodename,))
    assert "Connection refused" in refused.found


def test_whose_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert wandb_url(cluster()) == WANDB_URL
    monkeypatch.setenv("WANDB_BASE_URL", "https://here")
    assert wandb_url(cluster()) == wandb_url(cluster(environment={"WANDB_BASE_URL": None})) == "https://here"
    assert wandb_url(cluster(environment={"WANDB_BASE_URL": "https://theirs"})) == "https://theirs"


def measured(*ranks: dict[str, Any], error: str = "", name: str = "n1") -> dict[str, Any]:
    return {"name": name, "measured": list(ranks), "error": error}


def rank(number: int, right: bool = True, speed: float = 2e10) -> dict[str, Any]:
    return {"rank": number, "right": right, "all_reduce": speed, "all_gather": speed}


def test_collectives() -> None:
    fine = Answers((measured(rank(0)), measured(rank(1, speed=1e10), name="n2")), {})
    (finding,) = judge.collectives(fine, 2, "nccl", cluster())
    assert finding.state == "ok"
    assert "all-reduce 10.00 GB/s" in finding.found
    fast = cluster(network={"bandwidth_gbps": 400.0})
    assert states(judge.collectives(fine, 2, "nccl", fast)) == [("warning", ())]
    lying = Answers((measured(rank(0), rank(1, right=False)),), {})
    (finding,) = judge.collectives(lying, 2, "nccl", cluster())
    assert (finding.state, finding.found) == ("wrong", "nccl returns wrong sums on ranks 1")
    stuck = Answers((measured(error="timeout"),), {"n2": "gone"})
    assert states(judge.collectives(stuck, 2, "gloo", cluster())) == [("wrong", ("n2",)), ("wrong", ("n1",))]


def test_the_address_that_others_use() -> None:
    found = report(
        addresses={"lo": ["127.0.0.1"], "docker0": ["172.17.0.1"], "eth0": ["fe80::1", "10.0.0.1"], "ib0": ["10.9.0.1"]}
    )
    assert _address(found, cluster()) == "10.0.0.1"
    assert _address(found, cluster(network={"interface": "ib0"})) == "10.9.0.1"
    assert _address(found, cluster(network={"interface": "ib1"})) == ""
    assert _address(found, load_cluster("local")) == "127.0.0.1"


def test_what_slurm_is_asked_for(tmp_path: Path) -> None:
    job = asked(load_cluster("slurm-h100"), folder=tmp_path)
    options = srun_options(job)
    assert {"--partition=gpu", "--exclusive", "--mem=0", "--cpus-per-task=96"} <= set(options)
    assert any(option.startswith("--gpus-per-node=") for option in options)
    assert not [option for option in options if option.startswith(("--output", "--requeue", "--signal", "--chdir"))]
    assert job_shell(job)[:4] == ["bash", str(batch_script()), "--python", sys.executable]
    assert job_shell(asked(everything()))[2:6] == ["--module", "cuda/12.8", "--module", "gcc/13"]


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_in_a_container_it_runs_inside(tmp_path: Path, runtime: str) -> None:
    image = {"runtime": runtime, "image": "distft.sqsh"}
    made = Cluster.model_validate(load_cluster("slurm-cpu").model_dump() | {"container": image})
    words = job_shell(asked(made, folder=tmp_path))[2:]
    given = [(name, value) for name, value in zip(words[::2], words[1::2], strict=True)]
    assert ("--python", "python") in given
    if runtime == "pyxis":
        assert ("--srun", f"--container-image={Path.cwd()}/distft.sqsh") in given
    else:
        within = [value for name, value in given if name == "--within"]
        assert within[:2] == ["apptainer", "exec"]
        assert within[-1] == f"{Path.cwd()}/distft.sqsh"
        assert f"{tmp_path}:{tmp_path}" in within


def test_the_report() -> None:
    made = Report(
        "mine", (Finding("nodes", "ok", "2"), Finding("folder", "wrong", "not seen", "share it", ("n1", "n2")))
    )
    assert made.lines() == [
        "ok       nodes   2",
        "wrong    folder  n1, n2: not seen",
        "                 -> share it",
    ]
    told = json.loads(json.dumps(made.as_json()))
    assert not told["ok"]
    assert told["findings"][1]["nodes"] == ["n1", "n2"]


def test_this_node_reports(tmp_path: Path) -> None:
    (tmp_path / "nonce").touch()
    found = json.loads(json.dumps(node_report(tmp_path, "nonce", "")))
    assert found["cpus"] >= 1
    assert found["folder"]["seen"]
    assert (tmp_path / found["folder"]["written"]).is_file()
    assert abs(found["folder"]["clock"]) < 5
    assert found["packages"]["distft"]
    there = judge.shared_folder([found], expected(num_nodes=1), lambda name: (tmp_path / name).is_file())
    assert states(there)[0] == ("ok", ())


def test_the_program_on_a_node_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    question = json.dumps({"folder": str(tmp_path), "nonce": "x", "wandb_url": ""})
    code = (
        "import sys\nfrom distft.doctor.on_node import main\n"
        f"sys.argv = ['x', 'report', {question!r}]\nmain()\nassert not {{'torch', 'ray'}} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_two_ranks_here_add_up(tmp_path: Path) -> None:
    question = {
        "folder": str(tmp_path),
        "ranks": {os.uname().nodename: [0, 2, "127.0.0.1"]},
        "world": 2,
        "backend": "gloo",
    }
    answers = asking.Here(0).ask("collectives", question)
    assert states(judge.collectives(answers, 2, "gloo", cluster())) == [("ok", ())], answers


class _Node:
    def __init__(self, name: str) -> None:
        self.name = self.node_id = name


def test_over_ray_a_node_that_fails_is_told_from_one_that_answers() -> None:
    def everywhere(nodes: Any, task: Any, arguments: Any, **_: Any) -> dict[str, Any]:
        return {
            "a": (0, 'noise\n{"name": "a"}\n', ""), "b": (1, "", "Traceback\nModuleNotFoundError: distft"),
            "c": TimeoutError("no answer"),
        }  # fmt: skip

    answers = OverRay(0, [_Node("a"), _Node("b"), _Node("c")], everywhere).ask("report", {})
    assert [said["name"] for said in answers.said] == ["a"]
    assert answers.silent == {"b": "ModuleNotFoundError: distft", "c": "no answer"}


def test_a_cluster_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from distft.common.errors import EnvironmentFallsShort

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(EnvironmentFallsShort, match="RAY_ADDRESS is not set"):
        examine("ray-existing")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentFallsShort, match="there is no srun here"):
        examine("slurm-cpu")


def test_nodes_are_listed_in_the_order_of_their_numbers() -> None:
    answers = Answers(tuple(report(name) for name in ("n10", "n2", "login", "n1")), {})
    assert [said["name"] for said in answers.by_name().said] == ["login", "n1", "n2", "n10"]
