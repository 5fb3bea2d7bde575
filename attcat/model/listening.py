"""A sound and what a decoder wrote after hearing it: the moments of the sound, then what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from .encoding import Encoding
from .translating import Translator
from .writing import Prompt


@dataclass(frozen=True)
class Heard(Prompt):
    """A sound that a model is given.

    Args:
        encoding: of the sound alone.
    """

    encoding: Encoding | None = None


class Listener(Translator):
    """How an encoder of sounds with a decoder writes.

    Args:
        adapter: of the model.
    """

    def prompt(self, value: Any) -> Prompt:
        """A sound, see `attcat.model.sound.read_sound`, or model arguments."""
        source = self.decoder.encode_source(value)
        return Heard([], source.tokens[0], "", encoding=source)

    def lead(self, prompt: Prompt) -> str | None:
        """Nothing: the text is what was written."""
        return ""

    def said(self, prompt: Prompt, encoding: Encoding, answer: str | Sequence[int] | Tensor) -> str | None:
        """The written text."""
        return self._target(answer)[3]

    def _source(self, prompt: Prompt) -> Encoding:
        assert isinstance(prompt, Heard)
        assert prompt.encoding is not None
        return prompt.encoding

    def _sources(self, source: Encoding, text: str | None) -> tuple[Any, ...]:
        """The sound."""
        return source.sources

    def arguments(self, prompt: Prompt) -> Mapping[str, Tensor]:
        """Those of the sound."""
        return self._source(prompt).arguments

    def write(self, model: Any, prompt: Prompt, options: Mapping[str, Any]) -> Tensor:
        """As `Writer`, with the tokens that the decoder was given before the first that it wrote.

        Some models have such tokens (which language, which task), and leave them out of what they return.
        """
        given: list[list[int]] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = kwargs.get("decoder_input_ids")
            if isinstance(ids, Tensor) and len(ids) == 1:
                given.append(ids[0].tolist())

        hook = model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            sequence = super().write(model, prompt, options)
        finally:
            hook.remove()
        ids = sequence.tolist()
        begin = _begin(given, ids)
        return sequence if ids[: len(begin)] == begin else sequence.new_tensor([*begin, *ids])


def _begin(given: Sequence[Sequence[int]], ids: Sequence[int]) -> list[int]:
    """What the decoder was given first, of the calls that led to these tokens.

    A call before (which language is it?) began otherwise; later calls have one more token each, or that token alone.

    Raises:
        InputError: if no call fits, so that it is not known what the decoder read.
    """
    for number, begin in enumerate(given):
        whole = list(ids) if list(ids[: len(begin)]) == list(begin) else [*begin, *ids]
        if all(
            call in (whole[: len(begin) + at], whole[len(begin) + at - 1 :][:1])
            for at, call in enumerate(given[number:])
        ):
            return list(begin)
    raise InputError(
        "what the decoder was given while it wrote does not lead to what generate() returned (long sounds are written in "
        "pieces): give a shorter sound, or explainer(sound, answer=text)"
    )
