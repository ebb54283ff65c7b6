"""New weights into the model of a vLLM worker, in place.

The first come by vLLM's own reloading, which knows all of its models. Where that shows how each of them is kept, the
next are written there: to have all layers taken apart and put together again takes as long as all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distft.rollout.weight_places import Places, Search


class VllmWeights:
    """Loads whole weights under their Hugging Face names, again and again."""

    def __init__(self) -> None:
        self._places: Places | None = None
        self._searched = False

    @torch.no_grad()
    def load(self, worker: Any, names: Sequence[str], tensors: Iterable[tuple[str, Tensor]]) -> set[str]:
        """All ``tensors``, which are called ``names``, into ``worker``'s model. Returns the names of those that got
        none. A tensor is read before the next one is asked for."""
        model = worker.model_runner.get_model()
        if self._places is not None:
            missing = self._places.write(tensors, _pack)
            for module in model.modules():
                if callable(after := getattr(module, "process_weights_after_loading", None)):  # attention
                    after(worker.model_runner.model_config.dtype)
        else:
            missing = self._reload(worker.model_runner, set(names), tensors)
        _renew_tied(model)
        return missing

    def _reload(self, runner: Any, names: set[str], tensors: Iterable[tuple[str, Tensor]]) -> set[str]:
        model = runner.get_model()
        wanted = {name for name, _ in model.named_parameters()}
        came: set[str] = set()
        loading = model.load_weights

        def noting(weights: Iterable[tuple[str, Tensor]]) -> Any:
            found = loading(weights)
            came.update(found or ())
            return found

        kept = ((name, tensor.clone()) for name, tensor in tensors)  # it waits for all parts of a layer
        search = self._search(model, names)
        model.load_weights = noting
        try:
            if search is None:
                runner.reload_weights(weights_iterator=kept)
            else:
                with _before_packing(model, search.look):
                    runner.reload_weights(weights_iterator=search.passing(kept))
                self._places, self._searched = search.places(), True
        except BaseException:
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            # Or what has come would count as a part of the next reload.
            finalize_layerwise_reload(model, runner.model_config)
            raise
        finally:
            del model.load_weights
        return wanted - came

    def _search(self, model: Any, names: set[str]) -> Search | None:
        """Once to the end, for a model that is likely to keep what it is given."""
        search = Search(model, getattr(model, "packed_modules_mapping", {}))
        whole = search.names() == names and not hasattr(model, "process_weights_after_loading")
        return search if whole and not self._searched else None


@contextmanager
def _before_packing(model: nn.Module, look: Callable[[nn.Module], None]) -> Iterator[None]:
    """``look`` is called with every module that has got its weights, before vLLM does more with them."""

    def looking(pack: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
        def look_and_pack(module: nn.Module) -> None:
            look(module)
            pack(module)

        return look_and_pack

    methods = {id(found): found for module in model.modules() if (found := getattr(module, "quant_method", None))}
    for method in methods.values():
        method.process_weights_after_loading = looking(method.process_weights_after_loading)
    try:
        yield
    finally:
        for method in methods.values():
            del method.process_weights_after_loading


def _pack(module: nn.Module) -> None:
    """As vLLM does it with a layer that it has loaded."""
    if (method := getattr(module, "quant_method", None)) is not None:
        method.process_weights_after_loading(module)


def _renew_tied(model: Any) -> None:
    """A head that is tied to the embedding keeps what it packed of it when the model was loaded, and reloading passes
    it by, as no tensor has its name: it packs again."""
    seen: set[int] = set()
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and id(weight) in seen:
            _pack(module)
        seen.add(id(weight))
