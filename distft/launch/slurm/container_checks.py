"""What a job's processes run in, container image or virtual environment: is it there? As far as a login node sees."""

from __future__ import annotations

import os
from pathlib import Path

from distft.common.errors import EnvironmentFallsShort, UserError, nearest
from distft.config.cluster import Cluster
from distft.launch.slurm import checks

_SUFFIXES = (".sif", ".sqsh", ".img")


def image_file(cluster: Cluster) -> Path | None:
    """The image as a path, where it is a file and not a reference to a registry's."""
    if cluster.container is None:
        return None
    image = os.path.expanduser(cluster.container.image)
    if "://" in image or not (image.startswith(("/", "./", "../")) or image.endswith(_SUFFIXES)):
        return None
    return Path(image).absolute()


def check(cluster: Cluster) -> None:
    """Raises UserError for a file that is not where its folder is seen, EnvironmentFallsShort where Slurm cannot start
    containers. A path below a folder that only the nodes have is left to the job, which looks before anything else.
    """
    image = image_file(cluster)
    if image is not None:
        _require(image, f"cluster {cluster.name}, container.image")
    if cluster.virtualenv is not None:
        python = Path(os.path.expanduser(cluster.virtualenv), "bin", "python")
        _require(python, f"cluster {cluster.name}, virtualenv")
    pyxis = cluster.container is not None and cluster.container.runtime == "pyxis"
    if pyxis and "--container-image" not in checks.ask(["srun", "--help"]):
        raise EnvironmentFallsShort(
            "this Slurm does not have pyxis: srun knows no --container-image",
            where=f"cluster {cluster.name}, container.runtime",
            hint="runtime: apptainer, or a virtualenv in place of the container",
        )


def _require(path: Path, where: str) -> None:
    there = next(folder for folder in path.parents if folder.is_dir())
    if path.exists() or (len(there.parts) < 3 and there != path.parent):
        return  # nothing but the root of a file system that nodes may have and this machine does not
    missing = path.relative_to(there).parts[0]
    close = nearest(missing, [each.name for each in there.iterdir()])
    hint = f"did you mean {there / close}?" if close else f"{there} has no {missing}"
    raise UserError(f"there is no {path}", where=where, hint=hint)
