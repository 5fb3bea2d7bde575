"""The door: from a model to its adapter. Wrappers are removed, registered adapters come first, then experiments."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...errors import AttCATError, UnsupportedModelError
from ..adapter import GUIDE, Adapter
from ..audio import ARGUMENTS
from ..registry import known_adapter, no_adapter
from ..versions import warn_if_untested
from ..video import FRAMES, VideoAdapter
from ..wrappers import unwrap
from .across import DiscoveredAcross
from .answering import DiscoveredAnswering
from .asking import DiscoveredAsking
from .audio import DiscoveredAudio
from .base import FAILED
from .describing import DiscoveredCaptioning, DiscoveredDescribing
from .experiments import FAILURES, accepted
from .hearing import DiscoveredHearing
from .matching import DiscoveredMatching
from .meeting import DiscoveredMeeting
from .mixed import DiscoveredMixed, MeetingError
from .reading import PIXELS, SEEN, crosses
from .sentences import SentenceAdapter, embeds
from .streams import DiscoveredStreams
from .text import DiscoveredText
from .video import DiscoveredVideo
from .vision import DiscoveredVision


def adapter_of(model: Any, processor: Any = None) -> Adapter:
    """The registered adapter for a model, or one that is made by inspecting it; wrappers are removed first.

    An adapter is returned as it is, with its own processor.

    Raises:
        UnsupportedModelError: if there is none and the model does not show what is needed.
    """
    if isinstance(model, Adapter):
        return model
    model, processor = unwrap(model, processor)
    warn_if_untested(model)
    known = known_adapter(model)
    if known is not None:
        return known(model, processor)
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{type(model).__name__} is a TorchScript program, which cannot be watched: {GUIDE}"
        )
    if embeds(model):
        return SentenceAdapter(model, processor)
    if _hears(model):
        return (DiscoveredHearing if "decoder_input_ids" in (accepted(model.forward) or ()) else DiscoveredAudio)(
            model, processor
        )
    if _sees_and_writes(model):
        return DiscoveredDescribing(model, processor)
    if _asks(model):
        return _asking(model, processor)
    if _reads_and_sees(model):
        return _reading_and_seeing(model, processor)
    if _sees_pictures(model, processor):
        return _seeing(model, processor)
    return (DiscoveredStreams if _has_a_decoder(model) else DiscoveredText)(model, processor)


def _reading_and_seeing(model: nn.Module, processor: Any) -> Adapter:
    """Words and pictures in one sequence, from the beginning or behind an encoder of each; or a text that reads a picture by
    cross-attention, and is all that was written, or is judged beside it, or is asked about it."""
    try:
        words = DiscoveredMixed(model, processor)
        across = words.crosses or (words.whole is None and words.alone and crosses(model))
        return _reading_across(words) if across else words
    except MeetingError:
        return DiscoveredMeeting(model, processor)
    except UnsupportedModelError:
        if PIXELS not in (accepted(model.forward) or ()):
            raise
        answers = (DiscoveredAnswering,) if _has_a_decoder(model) else ()
        for kind in (*answers, DiscoveredCaptioning, DiscoveredMatching, DiscoveredMeeting):
            try:
                return kind(model, processor)
            except AttCATError:
                continue
        raise


def _reading_across(words: DiscoveredMixed) -> Adapter:
    """Words that read a picture by cross-attention; or the words alone, where it is not clear how they do."""
    try:
        return DiscoveredAcross(words)
    except (AttCATError, *FAILURES):
        return words


def _asking(model: nn.Module, processor: Any) -> Adapter:
    """Words and pictures in an encoder; or words alone, of a model that shows no more without a processor for both."""
    try:
        return DiscoveredAsking(model, processor)
    except AttCATError:
        if hasattr(processor, "tokenizer"):
            raise
        return DiscoveredStreams(model, processor)


def _seeing(model: nn.Module, processor: Any) -> Adapter:
    """Frames or one picture: a configuration may name frames for another model of its family (Perceiver)."""
    if all(getattr(getattr(model, "config", None), name, None) is None for name in FRAMES):
        return DiscoveredVision(model, processor)
    try:
        return DiscoveredVideo(model, processor)
    except UnsupportedModelError as error:
        if FAILED not in str(error):
            raise
        try:
            return DiscoveredVision(model, processor)
        except AttCATError as second:
            raise (error if FAILED in str(second) else second) from None


def _has_a_decoder(model: nn.Module) -> bool:
    """Whether a model takes a second sequence of tokens."""
    return {"input_ids", "decoder_input_ids"} <= (accepted(model.forward) or frozenset())


def _reads_and_sees(model: nn.Module) -> bool:
    """Whether a model takes words and pictures, and has no decoder for a second sequence of words."""
    names = accepted(model.forward) or frozenset()
    # Some take the same arguments for either kind of language model.
    decodes = getattr(getattr(model, "config", None), "is_encoder_decoder", True)
    return "input_ids" in names and not names.isdisjoint(SEEN) and not (_has_a_decoder(model) and decodes)


def _sees_and_writes(model: nn.Module) -> bool:
    """Whether a model takes pictures and, for its decoder, what it has written, and no other words."""
    names = accepted(model.forward) or frozenset()
    return {PIXELS, "decoder_input_ids"} <= names and "input_ids" not in names


def _asks(model: nn.Module) -> bool:
    """Whether a model reads words and pictures in an encoder, and writes by a decoder."""
    names = accepted(model.forward) or frozenset()
    return PIXELS in names and _has_a_decoder(model) and not _reads_and_sees(model)


def _hears(model: nn.Module) -> bool:
    """Whether a model takes sounds, by the name of its main argument."""
    main = getattr(model, "main_input_name", None)
    names = accepted(model.forward) or frozenset()
    # Of some the main argument is whatever their encoder takes.
    sees = main in VideoAdapter.arguments or PIXELS in names
    return main in ARGUMENTS or (not sees and bool(names & {*ARGUMENTS}) and "input_ids" not in names)


def _sees_pictures(model: nn.Module, processor: Any) -> bool:
    """Whether a model takes pictures, by the name of its argument, its processor, or its first layer."""
    names = accepted(model.forward) or frozenset()
    main = getattr(model, "main_input_name", None)
    for text, picture in (
        (main == "input_ids", main in VideoAdapter.arguments),
        ("input_ids" in names, not names.isdisjoint(VideoAdapter.arguments)),
        (hasattr(processor, "convert_ids_to_tokens"), False),
    ):
        if text != picture:
            return picture
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.Conv2d)):
            return isinstance(module, nn.Conv2d)
    raise no_adapter(model, "it has neither an embedding of tokens nor a convolution over pixels")
