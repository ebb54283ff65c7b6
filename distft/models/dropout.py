"""Dropout of a model's config, switched off and put back: attention's functional dropout is read there, in nested
configs too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from transformers import PreTrainedConfig

_Path: TypeAlias = tuple[str, ...]  # ("text_config", "attention_dropout")


def switch_off(config: Any) -> None:
    """Sets every dropout of a config to 0, those of nested configs too.

    It must happen before the model is made: what reads the probability at construction or in its forward cannot be
    switched off afterwards by walking over ``nn.Dropout`` modules.
    """
    for path in _dropouts(config):
        _set(config, path, 0.0)


def keep_layers(config: Any) -> None:
    """Sets every layer dropout of a config to 0 (BART's and OPT's ``layerdrop``), those of nested configs too: ranks
    that share a layer would wait for the one that leaves it out.
    """
    for path in _dropouts(config):
        if "layerdrop" in path[-1]:
            _set(config, path, 0.0)


@contextmanager
def as_written(config: Any, written: Any) -> Iterator[None]:
    """While open, ``config`` has the dropouts of ``written``, the config that its model was loaded with: for files
    that others train from. A text model may have been taken out of a larger one, its config with it.
    """
    source = written if type(written) is type(config) else written.get_text_config()
    now, before = _dropouts(config), _dropouts(source)
    for path in now.keys() & before.keys():
        _set(config, path, before[path])
    try:
        yield
    finally:
        for path, value in now.items():
            _set(config, path, value)


def _dropouts(config: Any, path: _Path = ()) -> dict[_Path, float]:
    found: dict[_Path, float] = {}
    for name, value in (config if isinstance(config, dict) else vars(config)).items():
        if isinstance(value, (PreTrainedConfig, dict)):
            found |= _dropouts(value, (*path, str(name)))
        elif isinstance(value, float) and "drop" in str(name):
            found[(*path, str(name))] = value
    return found


def _set(config: Any, path: _Path, value: float) -> None:
    for name in path[:-1]:
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    if isinstance(config, dict):
        config[path[-1]] = value
    else:
        setattr(config, path[-1], value)
