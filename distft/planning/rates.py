"""What hardware really reaches: measured by ``distft calibrate``, else shares of its data sheets, which are assumed.

Each of the shares has its source; *assumption* marks what nobody measured for us.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from distft.common.files import parse_json
from distft.config.cluster import Cluster

# Share of the peak of dense bfloat16 products, while computing. Assumption: of a compiled, fused code 0.58 is
# reported for a 7B model on one H200 and 0.54 with FSDP on four (KempnerForge, benchmarks/mfu_scaling, recomputation
# not counted); eager Hugging Face modules under DeepSpeed are slower.
ARITHMETIC = 0.5
# Float32 products of a GPU beside bfloat16 (data sheets: A100 19.5 of 312 TFLOP/s, H100 67 of 989).
FLOAT32 = 1 / 16
# Share of the GPU memory's bandwidth that element-wise work reaches. Assumption.
GPU_MEMORY = 0.75
# Share of the bandwidth of links and network that large collectives reach. Assumption.
LINKS = 0.8
# Bytes/s between a GPU and host memory: PCIe 4.0 x16, 32 GB/s less protocol. Assumption.
PCIE = 25e9
# Bytes/s that all ranks of a node together reach in host memory with torch's AdamW. Assumption.
HOST_MEMORY = 100e9
# Seconds that Hugging Face ``generate`` takes to launch one layer for one token, however few the rows. Assumption:
# 25 ms a token at 32 layers.
LAUNCH_LAYER = 0.8e-3


@dataclass(frozen=True)
class Rates:
    """Of one rank: FLOP/s of a decoder's layers in training (``arithmetic`` in bfloat16), bytes/s of element-wise work
    in its ``memory``, of ``link`` to its neighbours in one direction, and of ``host_link`` to host memory; of a node
    bytes/s of AdamW in ``host_memory``; ``launch``: seconds of a layer for one token. 0: not known.

    ``measured``: the day; empty where the shares above are assumed. ``spread``: by how much the rates varied among
    repeated measurements, as a share of them.
    """

    arithmetic: float
    arithmetic_float32: float
    memory: float
    link: float
    host_link: float
    host_memory: float
    launch: float
    measured: str = ""
    spread: float = 0.0

    @property
    def certainty(self) -> str:
        """What an estimate made of them is worth."""
        if not self.measured:
            return "rough, within 2x: rates are data sheets' and assumed (distft calibrate measures them)"
        return f"by rates measured on {self.measured}, which varied by {self.spread:.0%}"

    def as_json(self) -> dict[str, float | str]:
        """All of it by name."""
        return asdict(self)

    def or_else(self, others: Rates) -> Rates:
        """These, and of what is not known here the others."""
        known = {name: value for name, value in asdict(self).items() if value or name in ("measured", "spread")}
        return replace(others, **known)


def by_data_sheet(flops: float, memory_bandwidth: float, link: float) -> Rates:
    """The assumed shares of a GPU's peak bfloat16 FLOP/s and of its bandwidths in bytes/s."""
    return Rates(
        arithmetic=ARITHMETIC * flops,
        arithmetic_float32=FLOAT32 * ARITHMETIC * flops,
        memory=GPU_MEMORY * memory_bandwidth,
        link=LINKS * link,
        host_link=PCIE,
        host_memory=HOST_MEMORY,
        launch=LAUNCH_LAYER,
    )


def rates_file(cluster: Cluster, gpu_type: str) -> Path:
    """Where the rates of a cluster file lie: in the user's cache. Another description of a node is another file, and
    so is another GPU where the file leaves it to be found out.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    card = cluster.node.gpu.type if cluster.node.gpu else gpu_type
    told = json.dumps([cluster.node.model_dump(mode="json"), card], sort_keys=True)
    return home / "distft" / "rates" / f"{cluster.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"


def read_rates(cluster: Cluster, gpu_type: str) -> Rates | None:
    """What was measured for a cluster file; None where nothing was, or by another version of this."""
    try:
        told = parse_json(rates_file(cluster, gpu_type).read_text(encoding="utf-8"))
        return Rates(**{name: type(value)(told[name]) for name, value in asdict(_NOTHING).items()})
    except (OSError, ValueError, KeyError, TypeError):
        return None


_NOTHING = Rates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
