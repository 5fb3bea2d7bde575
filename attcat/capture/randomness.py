"""Random numbers of our own, in place of those that a model draws in evaluation mode.

torch's generator belongs to the whole process: drawing from it would change what the user's threads draw next, and putting
it back would make them draw the same numbers twice. So the calls that draw are seen on their way, like attention, and get a
generator that starts anew with every pass: explanations can be repeated.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError

Function = Callable[..., Any]

SEED = 0


class Draws:
    """What draws random numbers, answered from generators of our own, one for each device, from a seed on."""

    def __init__(self, seed: int = SEED) -> None:
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a function of `DRAWING`.

        Raises:
            CaptureError: if it takes no generator, and is not written out here.
        """
        return DRAWING[function](self, function, *args, **kwargs)

    def generator(self, device: torch.device | str | int | None) -> torch.Generator:
        """The generator of a device."""
        where = torch.empty(0, device=device).device
        if where not in self._generators:
            self._generators[where] = torch.Generator(where).manual_seed(self._seed)
        return self._generators[where]

    def given(self, function: Function, *args: Any, generator: torch.Generator | None = None, **options: Any) -> Any:
        """A function that takes a generator; one that the model brings stays."""
        tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
        device = tensors[0].device if tensors else options.get("device")
        return function(*args, generator=self.generator(device) if generator is None else generator, **options)

    def like(self, function: Function, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """`rand_like` and its kind."""
        made = torch.empty_like(x, **options)
        if function is torch.randint_like:
            low, high = args if len(args) == 2 else (0, args[0])
            return made.random_(int(low), int(high), generator=self.generator(made.device))
        fill = made.uniform_ if function is torch.rand_like else made.normal_
        return fill(generator=self.generator(made.device))

    def dropout(self, function: Function, input: Tensor, p: float = 0.5, *args: Any, **options: Any) -> Tensor:
        """Dropout that is on in evaluation mode: entries, or whole channels, are 0 with probability p."""
        training = args[0] if args else options.get("training", options.get("train"))  # torch hands over its defaults
        if not training or p == 0:
            unchanged: Tensor = function(input, p, *args, **options)
            return unchanged
        shape = input.shape if function in _EVERY_ENTRY else (*input.shape[:2], *(1,) * (input.dim() - 2))
        kept = input.new_empty(shape).bernoulli_(1 - p, generator=self.generator(input.device))
        result = input * kept / (1 - p) if p < 1 else input * 0
        inplace = function is torch.dropout_ or (args[1] if len(args) > 1 else options.get("inplace", False))
        return input.copy_(result) if inplace else result

    def gumbel(
        self, function: Function, logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
    ) -> Tensor:
        """Gumbel softmax (Jang et al., ICLR 2017), as torch computes it."""
        noise = -torch.empty_like(logits).exponential_(generator=self.generator(logits.device)).log()
        soft = ((logits + noise) / tau).softmax(dim)
        if not hard:
            return soft
        one_hot = torch.zeros_like(logits).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
        return one_hot - soft.detach() + soft

    @staticmethod
    def check_attention(
        query: Any, key: Any, value: Any, mask: Any = None, dropout_p: float = 0.0, *_: Any, **__: Any
    ) -> None:
        """Refuse attention, with the parameters of torch's function, of which a part is dropped at random.

        Raises:
            CaptureError: if it is.
        """
        if dropout_p > 0:
            raise CaptureError(
                f"the model drops attention in evaluation mode (dropout_p={dropout_p}): an explanation of one draw explains "
                "no other; switch it off in evaluation mode"
            )

    def refused(self, function: Function, *args: Any, **options: Any) -> Any:
        """A function that draws without a generator, unless it is switched off."""
        places = {F.rrelu: 3, F.alpha_dropout: 2, F.feature_alpha_dropout: 2}
        place = places.get(function, len(args))
        training = args[place] if place < len(args) else options.get("training", function not in places)
        if training:
            raise CaptureError(
                f"the model draws random numbers in evaluation mode, by {function.__name__}: an explanation of one draw "
                "explains no other; switch it off in evaluation mode"
            )
        return function(*args, **options)


_EVERY_ENTRY: tuple[Function, ...] = (F.dropout, torch.dropout, torch.dropout_)
_FILLS = ("uniform_", "normal_", "exponential_", "bernoulli_", "geometric_", "cauchy_", "log_normal_", "random_")
_GIVEN: list[Function] = [
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial),
    *(nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_),
    *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
    *(torch.poisson, Tensor.bernoulli, Tensor.multinomial, *(getattr(Tensor, name) for name in _FILLS)),
]

DRAWING: dict[Function, Callable[..., Any]] = {
    **dict.fromkeys(_GIVEN, Draws.given),
    **dict.fromkeys((torch.rand_like, torch.randn_like, torch.randint_like), Draws.like),
    **dict.fromkeys((*_EVERY_ENTRY, F.dropout1d, F.dropout2d, F.dropout3d), Draws.dropout),
    F.gumbel_softmax: Draws.gumbel,
    **dict.fromkeys((F.rrelu, F.alpha_dropout, F.feature_alpha_dropout), Draws.refused),
    **dict.fromkeys((F.fractional_max_pool2d, F.fractional_max_pool3d), Draws.refused),
}
"""The torch functions that draw random numbers."""


class OwnRandomness(TorchFunctionMode):
    """While it is on, what this thread draws does not come from the process's generator."""

    def __init__(self, seed: int = SEED) -> None:
        super().__init__()
        self.draws = Draws(seed)

    def __torch_function__(
        self, func: Function, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if type(func) is not types.MethodWrapperType and func in DRAWING:
            return self.draws(func, args, kwargs)
        if func is F.scaled_dot_product_attention:
            self.draws.check_attention(*args, **kwargs)
        return func(*args, **kwargs)
