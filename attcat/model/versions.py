"""Whether a model comes from a version of its library that the adapters were tested with."""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version

from torch import nn

from .wrappers import names_of

ENTRY_POINTS = "attcat.tested"
"""Entry points named after a library; each holds the oldest and the newest version tested."""


def warn_if_untested(model: nn.Module) -> None:
    """Warn, once for each library, if the model's library is older or newer than what was tested."""
    for package in dict.fromkeys(name.partition(".")[0] for name in names_of(model)):
        _warn_once(package)


@cache
def _warn_once(package: str) -> None:
    points = entry_points(group=ENTRY_POINTS, name=package)
    try:
        installed = version(package)
    except PackageNotFoundError:
        return
    for point in points:
        oldest, newest = point.load()
        if not _release(oldest) <= _release(installed) <= _release(newest):
            warnings.warn(
                f"{package} {installed} was not tested with this AttCAT ({oldest} to {newest} were): "
                "attcat check shows whether your model works",
                stacklevel=5,
            )


def _release(text: str) -> tuple[int, ...]:
    """The release's numbers: `5.23.0.dev0` is (5, 23, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
