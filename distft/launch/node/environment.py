"""What of a node's environment the run's processes get: an allow-list, and what the cluster file names.

A login shell's environment holds tokens and proxies' passwords, and settings that change what libraries do. Nothing
of it goes on by accident: neither from the shell that submits to the job (what it is given lies in Slurm's own state
files), nor from the job to Ray and the ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import distft
from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import Cluster
from distft.config.redact import has_credentials, is_secret_key
from distft.groups import worker_start
from distft.launch.node.network import Address
from distft.launch.on_ray.private import FORKS, SETTINGS
from distft.planning.machine import PASSED_ON

_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "LD_LIBRARY_PATH", "LIBRARY_PATH",
    "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONUTF8", "XDG_CACHE_HOME",
    "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCM_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "OMP_NUM_THREADS", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    # By which the run knows where it is.
    "SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
    "SLURM_CLUSTER_NAME",
    *PASSED_ON,
})  # fmt: skip
# Families of settings that modules and sites make for the libraries underneath.
_FAMILIES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "RCCL_", "UCX_", "FI_", "TORCH_", "TRITON_", "WANDB_", "DISTFT_")
# What the batch script needs besides, before any process of the run: modules and containers.
_OF_THE_SCRIPT = ("MODULE", "LMOD_", "LOADEDMODULES", "_LMFILES_", "APPTAINER", "SINGULARITY", "ENROOT_")


def exported(environment: Mapping[str, str], cluster: Cluster) -> tuple[str, ...]:
    """The names of the variables that a job is given of the environment in which it is submitted, in order."""
    named = {name for name, value in cluster.environment.items() if value is None and name in environment}
    kept = {name for name, value in environment.items() if _allowed(name, value, _OF_THE_SCRIPT)}
    # Slurm parts the names by commas, and hands on its own by itself.
    return tuple(sorted(name for name in named | kept if name.isidentifier() and not name.startswith("SLURM_")))


def withheld(environment: Mapping[str, str], cluster: Cluster) -> tuple[str, ...]:
    """Allowed names whose values have a password in them, as a proxy's may: they go on only where the file says so."""
    return tuple(sorted(name for name in environment if _known(name) and name not in cluster.environment
                        and not is_secret_key(name) and has_credentials(environment[name])))  # fmt: skip


def _known(name: str, more: tuple[str, ...] = ()) -> bool:
    return name in _NAMES or name.startswith((*_FAMILIES, *more))


def _allowed(name: str, value: str, more: tuple[str, ...] = ()) -> bool:
    return _known(name, more) and not is_secret_key(name) and not has_credentials(value)


def passed_on(environment: Mapping[str, str], cluster: Cluster) -> dict[str, str]:
    """The allowed variables, and those of the cluster file: with its value, or passed on by name (null).

    A secret is passed on only by its name in the file. Raises EnvironmentFallsShort where one named is not there.
    """
    kept = {name: value for name, value in environment.items() if _allowed(name, value)}
    for name, value in cluster.environment.items():
        if value is None and name not in environment:
            raise EnvironmentFallsShort(
                f"{name} is to be passed on, but is not set in the job",
                where=f"cluster {cluster.name}, environment.{name}",
                hint=f"export {name} before you submit; was it submitted with an --export without it?",
            )
        kept[name] = environment[name] if value is None else value
    return kept


def node_environment(
    environment: Mapping[str, str], cluster: Cluster, address: Address, private: Path, token: Path
) -> dict[str, str]:
    """The environment of Ray and of the driver on this node. ``private``: the node-local folder."""
    kept = passed_on(environment, cluster)
    python = str(Path(sys.executable).parent)
    kept["PATH"] = f"{python}:{kept['PATH']}" if kept.get("PATH") else python
    checkout = Path(distft.__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        # Not installed, or not this copy of it: the children shall be what this process is.
        kept["PYTHONPATH"] = ":".join([str(checkout), *filter(None, [kept.get("PYTHONPATH")])])
    kept["TMPDIR"] = str(private / "t")
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if cluster.network.interface is not None or name not in kept:
            kept[name] = address.interface
    return kept | RAY_SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(token)} | {worker_start.FOLDER: str(private / FORKS)}


RAY_SETTINGS = SETTINGS | {
    "RAY_START_HOOK": "distft.launch.on_ray.start_hook.lean",
    # Without it a node takes half a minute to leave.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
