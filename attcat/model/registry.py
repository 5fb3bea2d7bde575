"""Finding the adapter of a model: by the names in its class's ancestry, through entry points and `register`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from ..errors import LoadError, OptionError, UnsupportedModelError
from .adapter import GUIDE, Adapter
from .wrappers import names_of

ENTRY_POINTS = "attcat.adapters"
LOADERS = "attcat.loaders"

AdapterType = TypeVar("AdapterType", bound=type[Adapter])
_registered: dict[str, type[Adapter]] = {}


def register(*names: str) -> Callable[[AdapterType], AdapterType]:
    """Class decorator: this adapter serves the models whose class, or a base class, has one of these names.

    Args:
        names: `package.ClassName`, the top-level package and the class, e.g. `transformers.BertPreTrainedModel`. You can
            register your own adapter under a name that an installed package announces; yours then comes first.

    Raises:
        OptionError: if another adapter was registered for one of the names. The same class may be registered again, also
            by running the notebook cell that defines it again.
    """
    if not names or not all(isinstance(name, str) and "." in name for name in names):
        raise TypeError('register takes names like "my_package.MyModel": the top-level package and the class')

    def add(adapter: AdapterType) -> AdapterType:
        if not (inspect.isclass(adapter) and issubclass(adapter, Adapter)):
            raise TypeError(f"{adapter!r} is not a subclass of attcat.Adapter")
        taken = [name for name in names if _source(_registered.get(name, adapter)) != _source(adapter)]
        if taken:
            raise OptionError(
                f"there is already an adapter for {taken[0]}, {_source(_registered[taken[0]])}: give the name of another model "
                f"class; registered are {', '.join(sorted(_registered))}"
            )
        _registered.update(dict.fromkeys(names, adapter))
        return adapter

    return add


def supported_models() -> dict[str, str]:
    """The supported model classes, and where the adapter of each is: `{"transformers.BertPreTrainedModel": "..."}`."""
    found = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    found.update({name: _source(cls) for name, cls in _registered.items()})
    return found


def _source(adapter: type[Adapter]) -> str:
    """Where a class is, as entry points write it."""
    return f"{adapter.__module__}:{adapter.__qualname__}"


def known_adapter(model: nn.Module) -> type[Adapter] | None:
    """The adapter for a model, by the names in its class's ancestry; what the user registered comes first.

    `package.*` is tried after all of the names: it stands for every class of a package.
    """
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    names = names_of(model)
    for name in (*names, *dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names)):
        if name in _registered:
            return _registered[name]
        if name in installed:
            adapter: type[Adapter] = installed[name].load()
            return adapter
    return None


def find_adapter(model: nn.Module) -> type[Adapter]:
    """As `known_adapter`.

    Raises:
        UnsupportedModelError: if there is none.
    """
    adapter = known_adapter(model)
    if adapter is None:
        raise no_adapter(model, "")
    return adapter


def load_by_name(name: str, revision: str | None = None, processor: str | None = None) -> tuple[nn.Module, Any]:
    """A model and its processor by name, through the entry point that announces how models are loaded.

    Args:
        name: a folder, or a hub id.
        revision: which commit of a model on the hub.
        processor: where the processor is, if elsewhere.

    Raises:
        LoadError: if it cannot be loaded, or no loader is installed.
    """
    for point in entry_points(group=LOADERS, name="hub"):
        found: tuple[nn.Module, Any] = point.load()(name, revision=revision, processor=processor)
        return found
    raise LoadError("nothing is installed that loads a model by its name: install attcat again")


def no_adapter(model: nn.Module, reason: str) -> UnsupportedModelError:
    """The error for a model that no adapter serves, and why it cannot be explained without one."""
    supported = ", ".join(sorted(supported_models()))
    return UnsupportedModelError(
        f"no adapter for {names_of(model)[0]}{reason and ', and '}{reason}. Supported by an adapter: "
        f"{supported or 'none (is AttCAT installed?)'}. An adapter is a few lines: {GUIDE}"
    )
