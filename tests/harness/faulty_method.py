"""SFT in a file of somebody else's, with a fault: in the step that ``DISTFT_TEST_FAULT`` names rank 1 reads a wrong
mask."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.distributed as dist

from distft.algorithms.losses.sft import Sft as SftLoss
from distft.config.algorithms.sft import Sft
from distft.config.given_answers import GivenAnswers
from distft.config.method import NamedLoss, Traits

FAULTS = ExitStack()


class Faulty(GivenAnswers):
    """Token NLL of the answers."""

    traits: ClassVar[Traits] = replace(Sft.traits, losses={"policy": NamedLoss(":FaultyLoss", keys=())})


@dataclass(frozen=True)
class FaultyLoss(SftLoss):
    """SFT's; the first of a process breaks what is to be broken."""

    def __post_init__(self) -> None:
        step = os.environ.pop("DISTFT_TEST_FAULT", "")
        if step and dist.get_rank() == 1:
            from tests.harness.probes import wrong_mask

            FAULTS.enter_context(wrong_mask(int(step)))
