"""The weights of a model by where they lie: its embeddings, its layers from the lowest up, its head."""

from __future__ import annotations

from torch import nn

from distft.config.optimizers.layer_names import layer_of, stack_heights
from distft.engine.layer_rates import embeddings

MOST_GROUPS = 32  # of one stack of layers: in a deeper one neighbours are together
EMBEDDING, HEAD = "embedding", "head"


def layer_groups(module: nn.Module) -> dict[str, str]:
    """The group of every parameter that is trained, by name, groups in the order in which data meets them.

    "embedding", "block 0" (as the model calls its layers; "encoder 0", "decoder 0" where there are two stacks; "block
    0-2" in a deep one), and "head" for all that is in no layer and no embedding: the last norm too.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    heights = stack_heights(trained)
    called, of_embedding = _names(list(heights)), set(embeddings(module))
    found: dict[str, tuple[tuple[int, int, int], str]] = {}
    for name, parameter in trained.items():
        place = layer_of(name)
        if place is None:
            found[name] = ((0, 0, 0), EMBEDDING) if id(parameter) in of_embedding else ((2, 0, 0), HEAD)
            continue
        stack, number = place
        width = -(-heights[stack] // MOST_GROUPS)
        first = number // width * width
        last = min(first + width, heights[stack]) - 1
        label = f"{called[stack]} {first}" + (f"-{last}" if last > first else "")
        found[name] = ((1, list(heights).index(stack), first), label)
    return {name: label for name, (_, label) in sorted(found.items(), key=lambda one: one[1][0])}


def _names(stacks: list[str]) -> dict[str, str]:
    """What stacks of layers are called: a single one "block", others by the first part in which they differ."""
    if len(stacks) == 1:
        return {stacks[0]: "block"}
    for column in zip(*(stack.split(".") for stack in stacks), strict=False):
        if len(set(column)) == len(stacks):
            return dict(zip(stacks, column, strict=True))
    return {stack: stack for stack in stacks}
