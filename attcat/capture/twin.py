"""A twin of a module tree: modules of its own, the same parameters and buffers.

A forward pass writes on the modules that it runs: our hooks, the training flag, what a model notes in its attributes. Other
threads run the same modules. So a pass runs a twin, and the user's modules are never written on. Whatever leads to a module
of the tree is made again, so that it leads to the twin's: plain attributes, lists of modules, bound methods and partials that
replace a `forward`, functions that close over a module, hooks. Everything else is the same object.

A twin of twelve blocks takes some milliseconds, so it is kept for the next pass; whether the model is still as it was then
(other weights in place are no change, another parameter, module, hook or attribute is one) takes a tenth of a millisecond.
"""

from __future__ import annotations

import copy
import functools
import logging
import types
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CaptureError

CHECKPOINTING = ("gradient_checkpointing", "grad_checkpointing")
"""Flags by which models compute a block a second time in the backward pass, where no gradient rule would see it."""

NOTED_IN = ("_hf_hook",)
"""Attributes whose objects are written on in a forward pass (accelerate notes there which weights it has brought)."""

WRITTEN = (
    "_modules",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Tables of a module that are a twin's own; those that a forward pass does not use are shared."""

ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type, Tensor, nn.Parameter, np.ndarray}
    | {torch.dtype, torch.device, torch.Size, types.BuiltinFunctionType, types.ModuleType, logging.Logger}
)
"""Types whose values lead to no module. Most attributes have one of them, and a look at the type is all they cost."""


LOOKED_THROUGH = 100_000
"""How many objects behind an attribute are looked at for modules."""


class NotCopied(Exception):  # noqa: N818 - a finding: the caller borrows the model itself
    """A tree of modules has no twin, because a part of it cannot be made again."""


class Twin:
    """A twin of a model, in evaluation mode, eager and without checkpoints; and of whatever leads to the model's modules.

    Args:
        model: a module tree, not written on.

    Raises:
        NotCopied: if a part of it cannot be made again.
        CaptureError: if its parameters were made in `torch.inference_mode()`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known: dict[int, Any] = {}  # by the id of the original
        self._originals: list[Any] = []  # alive as long as their ids are used
        self._leading: dict[int, bool] = {}
        self._plain: dict[type, bool] = {}
        self._modules: list[tuple[dict[str, Any], dict[str, Any]]] = []  # attributes, and how they were when copied
        self._seen: list[tuple[Any, Any]] = []  # the same of what else was copied
        self._cells: list[tuple[types.CellType, Any]] = []
        tree = self._shells(model)
        for module in tree:
            self._fill(module, vars(self._known[id(module)]), registered=True)
        self.model: nn.Module = self._known[id(model)]

    def of(self, value: Any) -> Any:
        """What leads to the twin where `value` leads to the model; `value` itself if it does not lead there."""
        if type(value) in ATOMS:
            return value
        if (known := self._known.get(id(value))) is not None:
            return known
        try:
            return self._again(value) if self._leads(value) else value
        except RecursionError as error:
            raise NotCopied(f"a chain of {type(value).__name__} is too long") from error

    def knows(self, module: nn.Module) -> bool:
        """Whether a module is a part of the model, or was found behind one."""
        return id(module) in self._known

    @property
    def is_current(self) -> bool:
        """Whether the model is as it was when the twin was made, up to its training flags and the values of its weights."""
        try:
            return (
                all(now == then or _but_for_flags(now, then) for now, then in self._modules)
                and all(now == then for now, then in self._seen)
                and all(cell.cell_contents is content for cell, content in self._cells)
            )
        except Exception:  # tensors and arrays of another content do not compare, and other threads may be writing
            return False

    # -- modules ---------------------------------------------------------------------------------------------------

    def _shells(self, model: nn.Module) -> list[nn.Module]:
        """The modules of the tree; each is known by an empty twin, a compiled one by that of the module inside."""
        tree, waiting, compiled = [], [model], []
        while waiting:
            module = waiting.pop()
            if id(module) in self._known:
                continue
            self._check_kind(type(module))
            if (inside := module._modules.get("_orig_mod")) is not None:
                if module._forward_hooks or module._forward_pre_hooks:
                    raise NotCopied("a compiled module has hooks of its own")
                compiled.append((module, inside))
                waiting.append(inside)
                self._remember(module, module)
                continue
            self._remember(module, object.__new__(type(module)))
            tree.append(module)
            waiting.extend([child for child in module._modules.values() if child is not None])
        for module, inside in reversed(compiled):
            self._remember(module, self._known[id(inside)])
        return tree

    def _check_kind(self, kind: type[nn.Module]) -> None:
        if kind not in self._plain:
            slots = any(vars(base).get("__slots__") for base in kind.__mro__)
            self._plain[kind] = not (slots or hasattr(kind, "__del__") or issubclass(kind, torch.jit.ScriptModule))
        if not self._plain[kind]:
            raise NotCopied(f"{kind.__name__} is not made of attributes alone")

    def _fill(self, module: nn.Module, state: dict[str, Any], registered: bool) -> None:
        """Give a twin what the module has; evaluation mode where `model.eval()` would reach."""
        state.update(vars(module))
        (self._modules if registered else self._seen).append((vars(module), state.copy()))
        for name, value in list(state.items()):
            if type(value) not in ATOMS:
                state[name] = self._attribute(name, value)
            elif registered and value is True and (name == "training" or name in CHECKPOINTING):
                state[name] = False
        state.pop("_compiled_call_impl", None)

    def _attribute(self, name: str, value: Any) -> Any:
        if name in ("_parameters", "_buffers"):
            if any(tensor.is_inference() for tensor in value.values() if tensor is not None):
                raise CaptureError(
                    "the model was made inside torch.inference_mode(), so it has no gradients: make it outside"
                )
            return self._copied(value)
        if name in WRITTEN:
            made = self._copied(value)
            made.update(self._values(value))
            return made
        if name in NOTED_IN:
            return self._noted(value)
        return self.of(value)

    def _copied(self, value: Any) -> Any:
        self._seen.append((value, value.copy()))
        return value.copy()

    # -- what leads to modules -------------------------------------------------------------------------------------

    def _leads(self, value: Any) -> bool:
        """Whether a module can be reached from a value."""
        if (found := self._leading.get(id(value))) is not None:
            return found
        visited, waiting = {id(value): value}, [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, nn.Module) or self._leading.get(id(one)):
                self._leading[id(value)] = True
                self._originals.append(value)
                return True
            if isinstance(one, types.FunctionType):
                self._check_globals(one)
            parts = [part for part in _parts(one) if type(part) not in ATOMS and id(part) not in visited]
            visited.update((id(part), part) for part in parts)
            waiting.extend(parts)
            if len(visited) > LOOKED_THROUGH:
                raise NotCopied(f"an attribute of type {type(value).__name__} holds too much to look through")
        self._leading.update(dict.fromkeys(visited, False))
        self._originals.extend(visited.values())
        return False

    def _check_globals(self, function: types.FunctionType) -> None:
        found = [name for name in _names(function.__code__) if id(function.__globals__.get(name)) in self._known]
        if any(isinstance(function.__globals__[name], nn.Module) for name in found):
            raise NotCopied(f"{function.__qualname__} names a module of the model as a global variable, {found[0]}")

    def _again(self, value: Any) -> Any:
        """A value that leads to modules, made again."""
        if type(value) in (weakref.ProxyType, weakref.CallableProxyType):
            return weakref.proxy(self.of(value.__repr__.__self__))
        if isinstance(value, nn.Module):  # not registered: `eval()` does not reach it
            self._check_kind(type(value))
            twin = self._remember(value, object.__new__(type(value)))
            self._fill(value, vars(twin), registered=False)
            return twin
        if isinstance(value, weakref.ref):
            return weakref.ref(self.of(value()))
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.of(value.__self__))
        if isinstance(value, functools.partial):
            made = type(value)(self.of(value.func), *map(self.of, value.args), **self._values(value.keywords))
            vars(made).update(self._values(vars(value)))
            return made
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, tuple):
            parts = [self.of(part) for part in value]
            return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
        if isinstance(value, (list, dict, set, frozenset)):
            return self._remember(value, self._container(value))
        return self._object(value)

    def _container(self, value: Any) -> Any:
        """A list, dict or set of the same kind."""
        made = copy.copy(value)
        self._seen.append((value, copy.copy(value)))
        self._remember(value, made)
        if isinstance(value, dict):
            made.clear()
            made.update([(self.of(key), self.of(part)) for key, part in value.items()])
        elif isinstance(value, list):
            made[:] = [self.of(part) for part in value]
        else:
            made = type(value)(map(self.of, value))
        return made

    def _function(self, function: types.FunctionType) -> Any:
        """The same code over other cells; cells that lead to no module stay shared, with what is noted in them."""
        eager = getattr(function, "_torchdynamo_orig_callable", None)
        if eager is not None:  # compiled
            return self._remember(function, self.of(eager))
        cells = function.__closure__ or ()
        again = [types.CellType() if self._leads(cell) else cell for cell in cells]
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(again))
        self._remember(function, made)
        for cell, new in zip(cells, again, strict=True):
            if new is not cell:
                self._cells.append((cell, cell.cell_contents))
                new.cell_contents = self.of(cell.cell_contents)
        made.__defaults__ = self.of(function.__defaults__)
        made.__kwdefaults__ = None if function.__kwdefaults__ is None else self._values(function.__kwdefaults__)
        made.__qualname__, made.__module__ = function.__qualname__, function.__module__
        vars(made).update(self._values(vars(function)))
        return made

    def _object(self, value: Any) -> Any:
        """An object of any other class, with its attributes."""
        try:
            made = self._remember(value, copy.copy(value))
            self._seen.append((vars(value), vars(value).copy()))
            vars(made).update(self._values(vars(value)))
        except Exception as error:
            raise NotCopied(f"{type(value).__name__} cannot be copied: {error}") from error
        return made

    def _noted(self, value: Any) -> Any:
        """An object that is written on in a forward pass, and those in it."""
        made = self._object(value)
        for name, part in vars(value).items():
            if isinstance(part, tuple) and part and all(hasattr(hook, "__dict__") for hook in part):
                vars(made)[name] = tuple(map(self._noted, part))
            elif isinstance(part, dict) and all(isinstance(within, dict) for within in part.values()):
                known = self._known.get(id(part))
                own = {key: within.copy() for key, within in part.items()} if known is None else known
                vars(made)[name] = self._remember(part, own)
        return made

    def _values(self, named: dict[str, Any]) -> dict[str, Any]:
        return {name: self.of(value) for name, value in named.items()}

    def _remember(self, original: Any, made: Any) -> Any:
        self._known[id(original)] = made
        self._originals.append(original)
        return made


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names and attributes in a function's code, and in that of functions within."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _parts(value: Any) -> Iterator[Any]:
    """What can be reached from a value in one step."""
    if isinstance(value, Tensor):  # of a class of its own, as quantised ones
        return
    if isinstance(value, types.FunctionType):
        yield from value.__closure__ or ()
        yield from (value.__defaults__, value.__kwdefaults__, vars(value))
    elif isinstance(value, types.CellType):
        with_content = value != types.CellType()
        yield from (value.cell_contents,) if with_content else ()
    elif isinstance(value, types.MethodType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords, vars(value))
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, dict):
        yield from (*value.keys(), *value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from tuple(value)
    if not isinstance(value, type) and not _is_processor(value):
        yield from getattr(value, "__dict__", {}).copy().values()


def _but_for_flags(now: dict[str, Any], then: dict[str, Any]) -> bool:
    """Whether the attributes of a module differ in nothing but its flags; the older ones then take them over."""
    then.update({name: now[name] for name in ("training", *CHECKPOINTING) if name in now})
    return now == then


def _is_processor(value: Any) -> bool:
    """Tokenizers and image processors hold whole vocabularies, and no module."""
    return hasattr(type(value), "convert_ids_to_tokens") or hasattr(type(value), "model_input_names")
