"""A sound and what a decoder wrote after hearing it: the moments of the sound, then what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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

    drops_start = True

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
            given.extend([ids[0].tolist()] if isinstance(ids, Tensor) else [])

        hook = model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            sequence = super().write(model, prompt, options)
        finally:
            hook.remove()
        ids = sequence.tolist()
        return sequence.new_tensor([*begun(given, ids, self.decoder.start_of(ids)), *ids])


def begun(given: Sequence[Sequence[int]], ids: Sequence[int], start: int) -> list[int]:
    """What the decoder was given before these tokens, as far as they do not begin with it.

    Args:
        given: what it was given in each call: everything, or with a cache the latest token alone.
        ids: what `generate` returned.
        start: the decoder's start token.
    """
    whole = [list(call) for call in given if list(call[:1]) == [start]]
    if not whole or list(ids[:1]) == [start]:
        return []
    last, written = whole[-1], list(ids[:-1])  # an earlier call may have asked which language it is
    without_cache = bool(written) and last[-len(written) :] == written
    return last[: -len(written)] if without_cache else last
