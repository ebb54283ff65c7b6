"""Runs the doctor's program on every node: here, by tasks of a Ray that runs already, or by a step of Slurm's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from distft.common.errors import EnvironmentFallsShort

PROGRAM = "distft.doctor.on_node"
PHASE_S = 240.0


@dataclass(frozen=True)
class Answers:
    """What the nodes said, and what went wrong with those that did not (by name, or "" where that is not known)."""

    said: tuple[Mapping[str, Any], ...]
    silent: Mapping[str, str]

    def by_name(self) -> Answers:
        """The same in the order of the names: n2 before n10."""

        def key(said: Mapping[str, Any]) -> list[tuple[str, int]]:
            return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", str(said["name"]))]

        return Answers(tuple(sorted(self.said, key=key)), self.silent)


class Asking(Protocol):
    """How the nodes of a cluster are reached."""

    num_nodes: int | None
    gpus: int

    def ask(self, phase: str, question: Mapping[str, Any]) -> Answers:
        """Runs a phase of ``on_node`` on every node, at the same time."""
        ...


class Here:
    """This machine."""

    def __init__(self, gpus: int) -> None:
        self.num_nodes: int | None = 1
        self.gpus = gpus

    def ask(self, phase: str, question: Mapping[str, Any]) -> Answers:
        """One process here."""
        return _answers(_run([sys.executable, "-m", PROGRAM, phase, json.dumps(question)]))


class OverSlurm:
    """The nodes that these options of srun ask for; ``script`` is the batch script with a job's own options, which
    loads the modules and enters the container as it does for a job.
    """

    def __init__(self, gpus: int, nodes: int, options: Sequence[str], script: Sequence[str]) -> None:
        self.gpus = gpus
        self._nodes, self._options, self._script = nodes, options, script
        self.num_nodes: int | None = nodes

    def ask(self, phase: str, question: Mapping[str, Any]) -> Answers:
        """One task a node under one srun."""
        tasks = [f"--nodes={self._nodes}", f"--ntasks={self._nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
        srun = [word for option in [*tasks, *self._options] for word in ("--srun", option)]
        return _answers(_run([*self._script, *srun, "--step", "-m", PROGRAM, phase, json.dumps(question)]))


class OverRay:
    """The nodes of the Ray cluster to which this process is connected."""

    def __init__(self, gpus: int, nodes: Sequence[Any], on_every_node: Callable[..., dict[str, Any]]) -> None:
        self.gpus = gpus
        self._nodes, self._on_every_node = nodes, on_every_node
        self.num_nodes: int | None = len(nodes)

    def ask(self, phase: str, question: Mapping[str, Any]) -> Answers:
        """One task a node; it starts the program in a process of its own, with the node's GPUs."""

        def task(words: list[str], seconds: float) -> tuple[int, str, str]:
            import subprocess
            import sys

            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, timeout=seconds, check=False
            )
            return done.returncode, done.stdout, done.stderr

        words = ["-m", PROGRAM, phase, json.dumps(question)]
        wanted = self.gpus if phase == "collectives" else 0
        answers = self._on_every_node(self._nodes, task, lambda _: (words, PHASE_S), seconds=PHASE_S + 30, gpus=wanted)
        said, silent = [], {}
        for node in self._nodes:
            answer = answers[node.node_id]
            if isinstance(answer, Exception):
                silent[node.name] = _first_line(str(answer)) or type(answer).__name__
                continue
            status, output, errors = answer
            found = _json_lines(output)
            said += found
            if not found:
                silent[node.name] = _last_line(errors) or f"exit {status}"
        return Answers(tuple(said), silent)


def _run(command: Sequence[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PHASE_S, check=False, env=dict(os.environ)
        )
    except FileNotFoundError:
        raise EnvironmentFallsShort(
            f"there is no {command[0]} here", where="doctor", hint="run it on a login node of the cluster"
        ) from None
    except subprocess.TimeoutExpired as error:
        partial = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return 124, partial, f"no answer within {PHASE_S:g} s"
    return done.returncode, done.stdout, done.stderr


def _answers(done: tuple[int, str, str]) -> Answers:
    status, output, errors = done
    said = _json_lines(output)
    silent = {"": _last_line(errors) or f"exit {status}"} if status or not said else {}
    return Answers(tuple(said), silent)


def _json_lines(output: str) -> list[Mapping[str, Any]]:
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


Connected = AbstractContextManager[Asking]


def here(gpus: int) -> Connected:
    """Nothing to connect to."""
    return nullcontext(Here(gpus))
