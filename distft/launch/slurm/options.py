"""A recipe on a Slurm cluster as one sbatch command: a list of words, none of which is ever read by a shell.

Pure. The batch script is one constant text; what differs from run to run are sbatch's options and the script's own
words, both by argv. For people it is shown quoted (``Rendered.shell``), and what is pasted is what is run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from distft.common.errors import UserError, nearest
from distft.config.cluster import Cluster, Container, Slurm
from distft.launch.slurm.array_tasks import TASK, tasks
from distft.launch.slurm.container_checks import image_file

SIGNAL = "USR1@120"  # to the steps, so long before the end
_PACKAGE = Path(__file__).resolve().parents[2]
_SCRIPTS = (_PACKAGE / "slurm", _PACKAGE.parent / "slurm")
_JOB = re.compile(r"\d+(_\d+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
# Keys of a cluster file's `slurm` that are sbatch's own options.
_AS_THEY_ARE = (
    "partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "time", "mail_user", "mail_type",
    "comment",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What is to be submitted. ``source``, ``cluster_source``: as typed, a shipped name or a file. ``folder``: where
    it was typed. ``exported``: names of the variables that the job is given. ``after``: jobs that must have ended well
    before, ``once_ended``: that must have ended however; ``array``: as sbatch takes it; ``sweep``: ``key=a,b`` each.
    ``program``: of a job that is no run and has one process, Python's words. ``outlives_nodes``: the run goes on where
    the job loses some."""

    name: str
    run_dir: str
    source: str
    overrides: tuple[str, ...]
    cluster: Cluster
    cluster_source: str
    folder: Path
    exported: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    once_ended: tuple[str, ...] = ()
    array: str | None = None
    sweep: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    outlives_nodes: bool = False


@dataclass(frozen=True)
class Rendered:
    """``folders`` are to be made and ``copies`` (from, to) to be written before ``command`` is run."""

    folders: tuple[Path, ...]
    copies: tuple[tuple[Path, Path], ...]
    command: tuple[str, ...]

    @property
    def shell(self) -> str:
        """All of it as one line for a shell."""
        parts = [["mkdir", "-p", "--", *map(str, self.folders)]]
        parts += [["cp", "--", str(source), str(target)] for source, target in self.copies]
        return " && ".join(shlex.join(words) for words in [*parts, list(self.command)])


def batch_script() -> Path:
    """The sbatch script: beside the packages in a checkout, inside them in an installed wheel."""
    return next(folder / "train.sbatch" for folder in _SCRIPTS if (folder / "train.sbatch").is_file())


def render(asked: Asked, *, script: Path, python: str) -> Rendered:
    """``python``: the one that runs the launcher where the cluster file names neither a virtualenv nor a container.

    Raises UserError for what Slurm could not be told without changing it.
    """
    if asked.program:
        words = [*_step(asked, python), *asked.program]
        return Rendered((Path(asked.run_dir) / "logs",), (), ("sbatch", *sbatch_options(asked), str(script), *words))
    first = Path(asked.run_dir.replace(TASK, str(tasks(asked.array)[0]) if asked.array else TASK))
    copies = []
    source, cluster_source = asked.source, asked.cluster_source
    if Path(source).is_file():
        copies.append(_copy(Path(source), first, "recipe"))
        source = str(copies[-1][1])
    if Path(cluster_source).is_file():
        copies.append(_copy(Path(cluster_source), first, "cluster"))
        cluster_source = str(copies[-1][1])
    folders = [Path(run_dir) / "logs" for run_dir in run_dirs(asked)]
    folders += [first / "launch"] if copies else []
    swept = [word for text in asked.sweep for word in ("--sweep", text)]
    words = [source, "--cluster", cluster_source, *swept, *asked.overrides]
    command = ["sbatch", *sbatch_options(asked), str(script), *script_options(asked, python), *words]
    return Rendered(tuple(folders), tuple(copies), tuple(command))


def with_options(cluster: Cluster, options: Sequence[str]) -> Cluster:
    """The cluster with keys of its `slurm` section replaced: ``key=value`` each. Raises UserError."""
    if not options:
        return cluster
    keys = {} if cluster.slurm is None else cluster.slurm.model_dump()
    for text in options:
        key, found, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if key not in Slurm.model_fields:
            close = nearest(key, Slurm.model_fields)
            hint = f"did you mean {close}? " if close else ""
            raise UserError(f"there is no option {key}", where=f"--slurm {text}",
                            hint=f"{hint}there are: {', '.join(Slurm.model_fields)}")  # fmt: skip
        if not found:
            raise UserError("has no value", where=f"--slurm {text}", hint=f"--slurm {key}=VALUE")
        keys[key] = {"true": True, "false": False}.get(value, value)
        if Slurm.model_fields[key].annotation is int and value.isdecimal():
            keys[key] = int(value)
        try:
            Slurm.model_validate(keys)
        except ValidationError:
            about = Slurm.model_fields[key].description
            raise UserError(f"{value!r} is not allowed here", where=f"--slurm {key}", hint=f"{key}: {about}") from None
    return cluster.model_copy(update={"slurm": Slurm.model_validate(keys)})


def run_dirs(asked: Asked) -> list[str]:
    """The run folder, or those of an array's tasks. Raises UserError where tasks would write one at once."""
    if asked.array is None:
        return [asked.run_dir]
    if TASK in asked.run_dir:
        return [asked.run_dir.replace(TASK, str(task)) for task in tasks(asked.array)]
    if not asked.array.endswith("%1"):
        raise UserError(
            "the tasks of the array would write one run folder at once",
            where=f"--array {asked.array}",
            hint=f"output_dir=runs/NAME-{TASK} gives each its own; {asked.array.partition('%')[0]}%1 runs one after "
            "the other, each going on where the last one stopped",
        )
    return [asked.run_dir]


def sbatch_options(asked: Asked) -> list[str]:
    """What is asked of Slurm. They win over the script's own and over SBATCH_* variables."""
    cluster, slurm = asked.cluster, asked.cluster.slurm
    node = cluster.node
    options = [
        "--parsable",
        f"--job-name={job_name(asked.name)}",
        f"--chdir={_plain(str(asked.folder), 'the working folder')}",
        f"--output={_output(asked)}",
        "--open-mode=append",
        f"--nodes={int(cluster.nodes) + cluster.spare_nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={node.cpus}",
    ]
    if slurm is not None and slurm.exclusive:
        options += ["--exclusive", "--mem=0"]
    else:
        assert not isinstance(node.memory_gib, str)
        options.append(f"--mem={int(node.memory_gib * 1024)}M")
    if node.gpu is not None and node.gpus not in (0, "auto"):
        typed = f"{node.gpu.type}:" if slurm is None or slurm.gpus_typed else ""
        gres = slurm is None or slurm.gpus_request == "gres"
        options.append(f"--gres=gpu:{typed}{node.gpus}" if gres else f"--gpus-per-node={typed}{node.gpus}")
    for key in _AS_THEY_ARE:
        if slurm is not None and getattr(slurm, key) is not None:
            options.append(f"--{key.replace('_', '-')}={getattr(slurm, key)}")
    told = [] if asked.program else [f"--signal={SIGNAL}"]  # a run writes a checkpoint before its time is over
    told += ["--no-kill"] if asked.outlives_nodes else []
    options += ["--requeue", *told, f"--export={','.join(asked.exported) or 'NONE'}"]
    for job in asked.after:
        if not _JOB.fullmatch(job):
            raise UserError("is no job id", where=f"--after {job}", hint="the number that sbatch printed")
    waits = {"afterok": asked.after, "afterany": asked.once_ended}
    conditions = [f"{how}:{':'.join(jobs)}" for how, jobs in waits.items() if jobs]
    if conditions:
        options += [f"--dependency={','.join(conditions)}", "--kill-on-invalid-dep=yes"]
    if asked.array is not None:
        options.append(f"--array={asked.array}")
    return options


def script_options(asked: Asked, python: str) -> list[str]:
    """The batch script's own options."""
    cluster = asked.cluster
    words = ["--outlive-nodes"] if asked.outlives_nodes else []
    for module in cluster.modules:
        words += ["--module", module]
    image = image_file(cluster)
    if image is not None:
        words += ["--needs", str(image)]
    if cluster.container is not None:
        words += _container(asked, cluster.container)
        python = "python"
    elif cluster.virtualenv is not None:
        python = os.path.join(os.path.expanduser(cluster.virtualenv), "bin", "python")
        words += ["--needs", python]
    return [*words, "--python", python, "--run-dir", asked.run_dir]


def _step(asked: Asked, python: str) -> list[str]:
    """The batch script's options for one process with all cores that the job has, in the environment of the file."""
    said = [f"{name}={value}" for name, value in asked.cluster.environment.items() if value is not None]
    step = ["--ntasks=1", f"--cpus-per-task={asked.cluster.node.cpus}", "--cpu-bind=none"]
    words = [word for option in step for word in ("--srun", option)] + script_options(asked, python)
    within = [word for one in (["env", *said] if said else []) for word in ("--within", one)]
    return [*words, *within, "--step"]


def job_name(name: str) -> str:
    """The recipe's name without what could be anything but a name to Slurm, its patterns or a terminal."""
    return _NAME.sub("-", name).strip("-")[:120] or "distft"


def _container(asked: Asked, container: Container) -> list[str]:
    """The container with the run folder, the working folder and the scratch in it; the launcher starts inside."""
    run = str(Path(asked.run_dir).parent) if TASK in asked.run_dir else asked.run_dir
    scratch = [asked.cluster.scratch] if asked.cluster.scratch else []
    own = list(dict.fromkeys([run, str(asked.folder), *scratch]))
    image = str(image_file(asked.cluster) or container.image)
    mounts = [*container.mounts, *(f"{path}:{path}" for path in own)]
    for path in own:
        if re.search(r"[,:]", path):
            raise UserError(f"{path!r} cannot be mounted: commas and colons part mounts", where="container",
                            hint="use a path without them")  # fmt: skip
    for mount in container.mounts:
        if "," in mount:
            raise UserError(f"{mount!r} has a comma, which parts mounts", where="container.mounts")
    if container.runtime == "pyxis":
        options = [f"--container-image={image}", f"--container-mounts={','.join(mounts)}"]
        options.append(f"--container-workdir={asked.folder}")
        return [word for option in options for word in ("--srun", option)]
    inside = ["apptainer", "exec", *(["--nv"] if asked.cluster.node.gpus else []), "--pwd", str(asked.folder)]
    for mount in mounts:
        inside += ["--bind", mount]
    return [word for option in [*inside, image] for word in ("--within", option)]


def _output(asked: Asked) -> str:
    """The job's output in the run folder; to Slurm a percent sign begins a pattern."""
    folder = _plain(asked.run_dir, "output_dir").replace("%", "%%")
    if asked.array is None:
        return f"{folder}/logs/slurm-%j.out"
    return f"{folder.replace(TASK, '%a')}/logs/slurm-%A_%a.out"


def _plain(path: str, what: str) -> str:
    """Slurm reads a backslash in a file's name as "no patterns", and shows names line by line."""
    if _CONTROL.search(path) or "\\" in path:
        raise UserError(
            f"{path!r} has a character that Slurm does not take in a path", where=what, hint="use a path without it"
        )
    return path


def _copy(path: Path, run_dir: Path, kind: str) -> tuple[Path, Path]:
    """A file as it is now, where the job finds it whatever is edited meanwhile."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return path.absolute(), run_dir / "launch" / f"{kind}-{digest}.yaml"
