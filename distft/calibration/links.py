"""What an all-gather between the ranks of this node reaches: a process for each GPU, two on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import torch

from distft.common.errors import EnvironmentFallsShort

SECONDS = 150
PROBE = "distft.doctor.collectives"


def links(device: torch.device) -> float:
    """Bytes/s in and out of one rank, as ``distft doctor`` measures it; 0 on a node with one GPU, which has no
    neighbours. Raises EnvironmentFallsShort where the ranks do not reach each other.
    """
    gpus = device.type == "cuda"
    ranks = torch.cuda.device_count() if gpus else 2
    if ranks == 1:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        probes = [
            subprocess.Popen(
                [sys.executable, "-m", PROBE, folder, str(rank), str(ranks), str(rank), "127.0.0.1",
                 "nccl" if gpus else "gloo"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        try:
            told = [probe.communicate(timeout=SECONDS) for probe in probes]
        except subprocess.TimeoutExpired:
            told = [("", f"no answer within {SECONDS} s")]
        finally:
            for probe in probes:
                probe.kill()
                probe.wait()
    if any(probe.returncode for probe in probes):
        why = next((error.strip().splitlines()[-1] for _, error in told if error.strip()), "")
        raise EnvironmentFallsShort(f"the ranks of this node do not reach each other: {why}", hint="see distft doctor")
    return float(json.loads(told[0][0])["all_gather"])
