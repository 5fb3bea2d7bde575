"""Inputs that do not know each other: one that cannot be explained takes no other with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import InputError, LoadError, OptionError, UnsupportedModelError

OF_THE_CALL = (LoadError, OptionError, UnsupportedModelError, torch.OutOfMemoryError, MemoryError)
"""What is wrong with the call and not with one of its inputs."""


class Each:
    """Results of many inputs, or what each failed with.

    A batch that fails is halved until the inputs that fail are found; the others are explained. An error that says nothing about
    an input, and others than `InputError` before anything was explained, are raised: a class that does not exist would fail with
    every input.

    Args:
        explain: from a list of inputs to their results.
    """

    def __init__(self, explain: Callable[[list[Any]], Sequence[Any]]) -> None:
        self.explain = explain
        self._begun = False

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """For each input its result, or an `Exception`.

        Raises:
            AttCATError: if the call is wrong, not an input.
        """
        if not inputs:
            return []
        try:
            found = list(self.explain(list(inputs)))
        except OF_THE_CALL:
            raise
        except Exception as error:
            if len(inputs) == 1:
                if not self._begun and not isinstance(error, InputError):
                    raise
                return [error]
        else:
            self._begun = True
            return found
        half = len(inputs) // 2
        return [*self(inputs[:half]), *self(inputs[half:])]
