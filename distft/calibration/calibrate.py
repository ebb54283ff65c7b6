"""``distft calibrate``: measures this machine for a cluster file and keeps the rates where the plan looks for them."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import torch

from distft.calibration.links import links
from distft.calibration.measure import (
    ON_CPU,
    ON_GPU,
    Scale,
    arithmetic,
    host_link,
    host_memory,
    launch,
    memory,
)
from distft.common.errors import EnvironmentFallsShort
from distft.common.files import write_json
from distft.config.cluster import Cluster
from distft.launch.machine import this_machine
from distft.planning.rates import Rates, rates_file


def calibrate(cluster: Cluster, scale: Scale | None = None) -> tuple[Rates, Path]:
    """The rates of this machine, which is a node of the cluster, and the file that they were written to.

    Raises EnvironmentFallsShort where this machine is none of its nodes or has no GPU where the file says so.
    """
    machine = this_machine()
    if cluster.kind == "slurm" and "SLURM_JOB_ID" not in os.environ:
        raise EnvironmentFallsShort(
            "this is not one of its nodes",
            where=f"cluster {cluster.name}",
            hint=f"on a node: srun --nodes=1 ... distft calibrate --cluster {cluster.name}",
        )
    wanted = cluster.node.gpus
    if wanted != "auto" and (wanted > 0) != (machine.gpus > 0):
        raise EnvironmentFallsShort(
            f"the cluster file says gpus: {wanted}, this machine has {machine.gpus}",
            where=f"cluster {cluster.name}",
            hint="measure on one of its nodes, or another cluster file: --cluster local",
        )
    rates = measured(torch.device("cuda" if machine.gpus else "cpu"), scale)
    target = rates_file(cluster, machine.gpu_type)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, rates.as_json() | {"format": 1, "cluster": cluster.name, "gpu": machine.gpu_type})
    return rates, target


def measured(device: torch.device, scale: Scale | None = None) -> Rates:
    """All rates of a device, one after the other."""
    scale = scale or (ON_GPU if device.type == "cuda" else ON_CPU)
    found = {
        "arithmetic": arithmetic(scale, device, torch.bfloat16),
        "arithmetic_float32": arithmetic(scale, device, torch.float32),
        "memory": memory(scale, device),
        "host_link": host_link(scale, device),
        "host_memory": host_memory(scale),
        "launch": launch(scale, device),
    }
    spread = max(one.spread for one in found.values())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Rates(**{name: one.value for name, one in found.items()}, link=links(device), measured=today, spread=spread)


def told(rates: Rates) -> list[str]:
    """The rates for people, a line each."""
    return [
        f"training, bfloat16     {rates.arithmetic / 1e12:10.3g} TFLOP/s",
        f"training, float32      {rates.arithmetic_float32 / 1e12:10.3g} TFLOP/s",
        f"memory                 {rates.memory / 1e9:10.1f} GB/s",
        f"between ranks          {rates.link / 1e9:10.1f} GB/s{'' if rates.link else ': there is one GPU'}",
        f"device to host memory  {rates.host_link / 1e9:10.1f} GB/s",
        f"AdamW in host memory   {rates.host_memory / 1e9:10.1f} GB/s",
        f"a layer of one token   {rates.launch * 1e3:10.3f} ms",
        f"they varied by {rates.spread:.0%}",
    ]
