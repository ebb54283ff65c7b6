"""The cluster file: hardware and how to reach it, no hyper-parameters.

``auto`` stands for what is found out on the machine (``local``) or from the running Ray cluster (``ray``).
Text that ends up on a command line of Slurm's keeps to an allow-list of characters.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from distft.common.errors import UserError, nearest
from distft.config.problem import Problem
from distft.config.problems import report
from distft.config.redact import is_secret_key
from distft.config.section import Items, Numeral, Section
from distft.config.yaml_file import KeyPath, read_yaml

# Beside the packages in a checkout, inside the package in an installed wheel.
_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "cluster_configs", _PACKAGE.parent / "cluster_configs")

Auto: TypeAlias = Literal["auto"]
Word: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,:@+=-]*$", max_length=200)]
Module: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./@+=-]*$", max_length=200)]
Features: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9(\[][A-Za-z0-9_.,:&|*()\[\]-]*$", max_length=200)]
Hosts: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*$", max_length=4096)]
Mail: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.%+@-]*$", max_length=200)]
EnvironmentName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
NoNewline: TypeAlias = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=4096)]


class Gpu(Section):
    """One accelerator."""

    type: Word = Field(description="name, as Slurm's gres calls it")
    memory_gib: float = Field(gt=0, description="memory that a process can use, GiB")
    bf16_tflops: float = Field(gt=0, description="dense bfloat16 matrix products, TFLOP/s")
    memory_bandwidth_gbs: float = Field(gt=0, description="GB/s between the chip and its memory")
    interconnect: Literal["nvlink", "pcie"] = Field(default="nvlink", description="links between the GPUs of a node")
    interconnect_gbs: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="GB/s of one GPU to its neighbours, both directions together; null: it has none"
    )


class Node(Section):
    """One machine; all machines of a cluster are alike."""

    cpus: Annotated[int, Field(ge=1)] | Auto = Field(default="auto", description="cores that the run may use")
    ranks_per_cpu: int = Field(default=1, ge=1, le=64, description="ranks that may share a core where there is no GPU")
    gpus: Annotated[int, Field(ge=0, le=64), Numeral] | Auto = Field(
        default=0, description="GPUs; 0: ranks run on the CPU"
    )
    gpu: Gpu | None = Field(default=None, description="what each GPU is; null: looked up, where something is `auto`")
    memory_gib: Annotated[float, Field(gt=0)] | Auto = Field(default="auto", description="host memory, GiB")

    @model_validator(mode="after")
    def _gpus_are_described(self) -> Node:
        looked_up = "auto" in (self.cpus, self.memory_gib)  # then what the GPUs are is looked up too
        if isinstance(self.gpus, int) and self.gpus > 0 and self.gpu is None and not looked_up:
            raise PydanticCustomError(
                "gpu_missing", "has GPUs, so `gpu` must say what they are (type, memory_gib, ...)"
            )
        return self


class Network(Section):
    """What joins the nodes."""

    interface: Word | None = Field(default=None, description="network interface of the collectives; null: they choose")
    bandwidth_gbps: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Gbit/s of one node")
    nccl: dict[EnvironmentName, NoNewline] = Field(default_factory=dict, description="NCCL_* settings by name")

    @model_validator(mode="after")
    def _nccl_only(self) -> Network:
        for name in self.nccl:
            if not name.startswith("NCCL_"):
                raise PydanticCustomError(
                    "not_nccl", "{name} is no NCCL setting; other variables belong in `environment`", {"name": name}
                )
        return self


class Slurm(Section):
    """How nodes are asked of Slurm: the options of sbatch."""

    partition: Word | None = Field(default=None, description="--partition")
    account: Word | None = Field(default=None, description="--account")
    qos: Word | None = Field(default=None, description="--qos")
    constraint: Features | None = Field(default=None, description="--constraint")
    reservation: Word | None = Field(default=None, description="--reservation")
    nodelist: Hosts | None = Field(default=None, description="--nodelist: nodes that must be among them")
    exclude: Hosts | None = Field(default=None, description="--exclude: nodes that must not")
    mail_user: Mail | None = Field(default=None, description="--mail-user: an address")
    mail_type: Word | None = Field(default=None, description="--mail-type: BEGIN,END,FAIL,REQUEUE,TIME_LIMIT_90, ...")
    comment: Annotated[NoNewline, Field(min_length=1)] | None = Field(default=None, description="--comment: a text")
    exclusive: bool = Field(default=False, description="--exclusive: no other job on the nodes")
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,4}(:\d{2}){0,2}$")] | None = Field(
        default=None, description="--time, as minutes, hours:minutes:seconds or days-hours"
    )
    spare_nodes: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="nodes that a job has beyond `nodes`: they take the places of lost ones (recovery.wait_for_nodes)",
    )
    gpus_request: Literal["gres", "gpus_per_node"] = Field(default="gres", description="option that asks for GPUs")
    gpus_typed: bool = Field(default=True, description="name node.gpu.type in the request; false: any GPU will do")


class Container(Section):
    """The image in which every node's processes run."""

    runtime: Literal["pyxis", "apptainer"] = Field(description="what runs the image")
    image: NoNewline = Field(min_length=1, description="image file or reference")
    mounts: Items[NoNewline] = Field(default=(), description="host:container[:options]")


_STARTED_BY = {
    "local": ("a run on this machine is in the environment of the shell that starts it", "enter it before `distft`"),
    "ray": (
        "a Ray cluster that runs already starts every process in the environment of its nodes' `ray start`",
        "enter it before `ray start`, on every node",
    ),
}


class Cluster(Section):
    """A cluster. The plan lays a recipe's ranks on it."""

    name: Word = Field(description="name of the cluster")
    kind: Literal["local", "slurm", "ray"] = Field(
        description="this machine, a Slurm job, or a Ray cluster that runs already"
    )
    nodes: Annotated[int, Field(ge=1, le=100_000)] | Auto = Field(default=1, description="nodes of one run")
    node: Node = Field(default_factory=Node, description="one node")
    network: Network = Field(default_factory=Network, description="what joins the nodes")
    slurm: Slurm | None = Field(default=None, description="how nodes are asked of Slurm")
    address: NoNewline | None = Field(default=None, description="Ray's job server; null: RAY_API_SERVER_ADDRESS")
    authentication: Literal["token", "none"] = Field(
        default="token", description="of a Ray that runs already; none: anyone on its network may run commands there"
    )
    modules: Items[Module] = Field(default=(), description="environment modules loaded on every node")
    virtualenv: NoNewline | None = Field(default=None, description="Python environment on every node")
    container: Container | None = Field(default=None, description="container image instead")
    scratch: NoNewline | None = Field(default=None, description="node-local folder for temporary files")
    environment: dict[EnvironmentName, NoNewline | None] = Field(
        default_factory=dict, description="variables for every process; null: passed on from where it is submitted"
    )

    @property
    def spare_nodes(self) -> int:
        """Nodes that a job of this cluster has in reserve."""
        return self.slurm.spare_nodes if self.slurm else 0

    @model_validator(mode="after")
    def _kind_fits(self) -> Cluster:
        if self.kind == "slurm" and "auto" in (self.nodes, self.node.cpus, self.node.gpus, self.node.memory_gib):
            raise _wrong(
                "a Slurm cluster file says nodes, node.cpus, gpus and memory_gib in numbers", "sinfo shows them"
            )
        if self.kind != "slurm" and self.slurm is not None:
            raise _wrong("`slurm` belongs to clusters of kind slurm only", "remove it, or write kind: slurm")
        # Only a job of ours starts its processes itself: elsewhere these would be passed over without a word.
        if self.kind != "slurm" and (self.modules or self.container):
            key = "container" if self.container else "modules"
            who, do = _STARTED_BY[self.kind]
            raise _wrong(f"`{key}` belongs to clusters of kind slurm only: {who}", f"remove it, and {do}")
        if self.kind == "local" and self.nodes != 1:
            raise _wrong("a local cluster has one node", "nodes: 1, or kind: slurm or ray")
        if self.virtualenv and self.container:
            raise _wrong("either `virtualenv` or `container`", "remove one of them")
        for name, value in self.environment.items():
            if value is not None and is_secret_key(name):
                raise _wrong(
                    f"no secrets here, {name} is one", f"write `{name}: null` to pass it on from where you submit"
                )
        return self


def _wrong(what: str, hint: str) -> PydanticCustomError:
    """What is wrong with the file as a whole, for which no key's description can be the hint."""
    return PydanticCustomError("whole", "{what}", {"what": what, "hint": hint})


def load_cluster(name_or_path: str) -> Cluster:
    """The cluster of a shipped name or a YAML path.

    Raises one UserError that lists everything wrong: dotted key, file and line, what, the nearest right thing.
    """
    tree = read_yaml(cluster_file(name_or_path))
    if not isinstance(tree.data, dict):
        raise UserError(
            "holds no mapping of keys", where=tree.source, hint="a cluster file starts with name: and kind:"
        )
    try:
        return Cluster.model_validate(tree.data)
    except ValidationError as error:
        raise report(_problems(error), tree) from None


def shipped_clusters() -> list[tuple[str, str]]:
    """(name, one line about it) of every shipped cluster file, by name."""
    files = {file.stem: file for folder in reversed(_FOLDERS) for file in folder.glob("*.yaml")}
    return [(name, files[name].read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")) for name in sorted(files)]


def cluster_file(name_or_path: str) -> Path:
    """The file of a shipped name or a path. Raises UserError with the nearest name."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    for folder in _FOLDERS:
        if len(path.parts) == 1 and (shipped := folder / f"{name_or_path}.yaml").is_file():
            return shipped
    names = [name for name, _ in shipped_clusters()]
    listed = f"shipped cluster files: {', '.join(names)}"
    close = nearest(path.stem, names)
    what = "there is no such file" if path.suffix or len(path.parts) > 1 else "no shipped cluster file has this name"
    raise UserError(what, where=name_or_path, hint=f"did you mean {close}? {listed}" if close else listed)


# The branches of unions, which pydantic puts into the location of an error.
_BRANCHES = re.compile(r"(constrained-)?(int|float|str)|literal\[.*\]|\[key\]|function-.*")
_SAID = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}


def _problems(error: ValidationError) -> list[Problem]:
    """One problem a key: what the branches of a union each want is joined by "or"."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        path = tuple(part for part in details["loc"] if not (isinstance(part, str) and _BRANCHES.fullmatch(part)))
        found.setdefault(path, []).append(details)
    return [_problem(path, details) for path, details in found.items()]


def _elsewhere(word: str) -> str:
    """The key of a section that was written beside the sections."""
    sections = {name: section for name in Cluster.model_fields if (section := _section_at((name,))) is not None}
    return next((f"{name}.{word}" for name, section in sections.items() if word in section.model_fields), "")


def _problem(path: KeyPath, all_details: Sequence[ErrorDetails]) -> Problem:
    details, section = all_details[0], _section_at(path[:-1])
    kind, value = details["type"], details["input"]
    known = list(section.model_fields) if section else []
    about = _description(section, path)
    if kind == "extra_forbidden":
        close = nearest(str(path[-1]), known) or _elsewhere(str(path[-1]))
        return Problem(
            path, f"unknown key {path[-1]}", f"did you mean {close}?" if close else f"keys here: {', '.join(known)}"
        )
    if kind == "missing":
        return Problem(path, "is missing", about)
    if kind == "string_pattern_mismatch":
        return Problem(path, f"{value!r} is not allowed here", about)
    if kind in _SAID:
        wanted = " or ".join(_SAID[d["type"]].format(**d.get("ctx", {})) for d in all_details if d["type"] in _SAID)
        inner = _section_at(path) if kind == "model_type" else None
        close = nearest(str(value), re.findall(r"'(.*?)'", wanted))
        hint = f"did you mean {close}?" if close else about
        if inner:
            count = f"{path[-1]}s"
            meant = f"did you mean {count}: {value}? " if count in known and isinstance(value, int) else ""
            hint = f"{meant}its keys: {', '.join(inner.model_fields)}"
        return Problem(path, f"must be {wanted}, not {value!r}", hint)
    return Problem(path, str(details["msg"]), str(details.get("ctx", {}).get("hint", about)))


def _section_at(path: KeyPath) -> type[Section] | None:
    section: type[Section] | None = Cluster
    for part in path:
        field = section.model_fields.get(str(part)) if section else None
        section = next((kind for kind in _kinds(field.annotation)), None) if field else None
    return section


def _kinds(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _kinds(part)]


def _description(section: type[Section] | None, path: KeyPath) -> str:
    field = section.model_fields.get(str(path[-1])) if section and path else None
    return f"{path[-1]}: {field.description}" if field and field.description else ""
