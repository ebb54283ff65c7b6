"""Learning rates by depth: the lower a layer, the less it moves."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from distft.config.optimizers.layer_names import layer_of, stack_heights


def layer_ratios(module: nn.Module, decay: float) -> dict[str, float]:
    """The rate of every parameter, by name, as a share of the optimizer's (Clark et al. 2020; counted as Bao et al.
    2022 do, appendix H).

    ``decay`` to the power of 1 for the highest of L layers, of L for the lowest, of L + 1 for embeddings and their
    norms; what is above the layers, or beside them, has the rate itself. Encoder and decoder are counted each by
    itself, embeddings below the higher of the two.
    """
    heights = stack_heights(name for name, _ in module.named_parameters(remove_duplicate=False))
    lowest = set(embeddings(module))
    found = {}
    for name, parameter in module.named_parameters():
        if (place := layer_of(name)) is not None:
            stack, number = place
            below = heights[stack] - number
        else:
            below = max(heights.values(), default=0) + 1 if id(parameter) in lowest else 0
        found[name] = decay**below
    return found


def embeddings(module: nn.Module) -> Iterator[int]:
    """Their weights, and what is by its name of them and lies beside or within (BERT's ``embeddings.LayerNorm``, BART's
    ``layernorm_embedding``)."""
    for name, part in module.named_modules():
        children = dict(part.named_children())
        if isinstance(part, nn.Embedding):
            yield id(part.weight)
        elif any(isinstance(child, nn.Embedding) for child in children.values()):
            for key, child in children.items():
                if "embed" in f"{name.rpartition('.')[2]}.{key}":
                    yield from map(id, child.parameters())
