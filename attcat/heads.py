"""What the numbers in a model's output stand for, and at which tokens they are read: the task.

The core explains one number out of a row of logits `[B, C]`. A head makes that row from what the model gives: as it is, for
a classifier; the row of one token, for a tagger or a language model; all candidate answers, for question answering. From
there on every task is a classification, with predicted classes, contrasts and probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, ProcessorError, UnsupportedModelError
from .locate import find_token, listed_words
from .names import Answers, Vocabulary, bounds
from .tokens import Span

if TYPE_CHECKING:
    from .adapter import Adapter, Encoding

Activation = Literal["softmax", "sigmoid", "none"]
"""From logits to probabilities: one class of several, each class for itself, or no probabilities (a measured value)."""

Token = str | int | slice | None
"""Which token: a word or piece of the text, the word's number, a slice of characters, or None for the head's own choice."""


class Head:
    """A classifier's head: a row of class logits for each input. Other heads derive from it.

    Args:
        adapter: of the model.
    """

    task: ClassVar[str] = "classification"
    kept: ClassVar[int | None] = None
    """How many of the best classes an Explanation keeps; None for all."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    @property
    def activation(self) -> Activation | None:
        """How logits become probabilities; None if the model does not say."""
        return config_activation(self.adapter.model)

    def call(self, encoding: Encoding) -> Any:
        """Run the model; the output's logits are the rows `[B, C]` that can be explained."""
        return self.adapter.model(**encoding.arguments)

    def point(self, encoding: Encoding, tokens: Sequence[Token]) -> Encoding:
        """The encoding with the token that is explained, for each row.

        Raises:
            InputError: if there is no such token, or the task has none.
        """
        if any(token is not None for token in tokens):
            raise InputError(
                f"{type(self.adapter.model).__name__} gives one prediction for the whole input: leave out token="
            )
        return encoding

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """Which tokens the head reads for these classes `[B]` (-1 for a function), bool `[B, T]`."""
        return self.adapter.read(encoding)

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The names of the `count` classes of a row."""
        names = self.adapter.labels
        return names if names is not None and len(names) == count else tuple(f"class {index}" for index in range(count))

    def position(self, encoding: Encoding, row: int) -> int | None:
        """The token of an unpadded example whose prediction is explained; None if it is the whole input's."""
        return None

    def answers(self, encoding: Encoding, row: int, classes: Sequence[int]) -> tuple[Span | None, ...] | None:
        """The characters that the classes stand for; None if they are no stretches of text."""
        return None


class TokenHead(Head):
    """A prediction for each token: tagging. The row of one token is explained, and only that token is read."""

    task = "token classification"

    @property
    def activation(self) -> Activation:
        """One of several classes."""
        return "softmax"

    def point(self, encoding: Encoding, tokens: Sequence[Token]) -> Encoding:
        """Find the tokens that were asked for; see `Head.point`."""
        places = [
            self.choose(encoding, row) if token is None else self.find(encoding, row, token)
            for row, token in enumerate(tokens)
        ]
        columns = [int(real.nonzero()[place]) for real, place in zip(encoding.mask, places, strict=True)]
        return replace(encoding, focus=torch.tensor(columns, device=encoding.mask.device))

    def find(self, encoding: Encoding, row: int, token: str | int | slice) -> int:
        """The position (of the unpadded example) whose prediction is about this token."""
        return find_token(encoding.tokens[row], encoding.sources[row], token)

    def choose(self, encoding: Encoding, row: int) -> int:
        """The position when the user names none."""
        raise InputError(
            f"{type(self.adapter.model).__name__} gives a prediction for each token: say which one, as token='word'"
            + listed_words(encoding.tokens[row], encoding.sources[row])
        )

    def call(self, encoding: Encoding) -> Any:
        """Run the model and keep the row of the token that is explained."""
        focus = self._focus(encoding)
        output = super().call(encoding)
        output.logits = output.logits[torch.arange(len(focus), device=focus.device), focus]
        return output

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """The token whose prediction is explained."""
        return F.one_hot(self._focus(encoding), encoding.mask.shape[1]).bool()

    def position(self, encoding: Encoding, row: int) -> int | None:
        """The position without padding; see `Head.position`."""
        return int(encoding.mask[row, : int(self._focus(encoding)[row])].sum())

    def _focus(self, encoding: Encoding) -> Tensor:
        """`[B]`"""
        if encoding.focus is None:
            encoding = self.point(encoding, [None] * len(encoding.tokens))
        assert encoding.focus is not None
        return encoding.focus


class NextTokenHead(TokenHead):
    """A causal language model: why this next token. A token is predicted by the position before it."""

    task = "causal language modeling"
    kept = 20

    def find(self, encoding: Encoding, row: int, token: str | int | slice) -> int:
        """The position before the token, which predicts it."""
        position = super().find(encoding, row, token)
        if position == 0:
            raise InputError(f"nothing comes before {encoding.tokens[row].labels[0]!r}: there is no prediction of it")
        return position - 1

    def choose(self, encoding: Encoding, row: int) -> int:
        """The last token, which predicts what follows the text."""
        return len(encoding.tokens[row]) - 1

    def call(self, encoding: Encoding) -> Any:
        """Run the model with logits `[B, V]` of one position, instead of those of all, `[B, T, V]`."""
        focus = self._focus(encoding)
        with _narrowed(self.adapter.model, focus):
            output = Head.call(self, encoding)
        if output.logits.shape[1] != 1:
            raise UnsupportedModelError(
                f"{type(self.adapter.model).__name__} gives logits {tuple(output.logits.shape)}, expected [B, 1, V]: "
                "its get_output_embeddings() is not its last layer"
            )
        output.logits = output.logits.squeeze(1)
        return output

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The vocabulary, spelled out when asked for."""
        return Vocabulary(self.adapter.processor, count)


class MaskedTokenHead(NextTokenHead):
    """A masked language model: why this token at this place, usually that of `[MASK]`."""

    task = "masked language modeling"

    def find(self, encoding: Encoding, row: int, token: str | int | slice) -> int:
        """The token's own position."""
        return TokenHead.find(self, encoding, row, token)

    def choose(self, encoding: Encoding, row: int) -> int:
        """The mask token, if there is just one."""
        processor = self.adapter.processor
        mask_id, name = getattr(processor, "mask_token_id", None), getattr(processor, "mask_token", None)
        if mask_id is None:
            raise ProcessorError("the tokenizer has no mask token: say which token to explain, as token='word'")
        ids = encoding.arguments["input_ids"][row, encoding.mask[row]]
        places = (ids == mask_id).nonzero().flatten().tolist()
        if len(places) == 1:
            return int(places[0])
        if places:
            raise InputError(
                f"{name} stands {len(places)} times in the text: say which one, by the number of the word, as token=2"
                + listed_words(encoding.tokens[row], encoding.sources[row])
            )
        raise InputError(f"there is no {name} in the text: put it where a word is predicted, or name one, token='word'")


class SpanHead(Head):
    """Extractive question answering: the classes are the candidate answers, and `(no answer)`.

    The logit of an answer is start logit + end logit, that of no answer both at the first token (Devlin et al., BERT,
    NAACL 2019, sections 4.2 and 4.3). Softmax over the candidates is the product of both probabilities, among the valid
    spans: `start <= end` in the context, at most `LONGEST` tokens.
    """

    task = "question answering"
    kept = 20
    LONGEST: ClassVar[int] = 30

    @property
    def activation(self) -> Activation:
        """One of several classes."""
        return "softmax"

    def call(self, encoding: Encoding) -> Any:
        """Run the model and add the logits of all candidates, `[B, 1 + T * LONGEST]`; -inf where there is none."""
        context = _context(encoding)
        output = super().call(encoding)
        start, end = output.start_logits, output.end_logits
        ends = F.pad(end, (0, self.LONGEST - 1)).unfold(1, self.LONGEST, 1)  # [B, T, LONGEST], of s, s + 1, ...
        valid = context[:, :, None] & F.pad(context, (0, self.LONGEST - 1)).unfold(1, self.LONGEST, 1)
        spans = (start[:, :, None].expand_as(ends) + ends).masked_fill(~valid, -torch.inf)
        output.logits = torch.cat([(start[:, 0] + end[:, 0])[:, None], spans.flatten(1)], dim=1)
        return output

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """The first and the last token of the answer; every candidate's when a function is explained."""
        read = _context(encoding)
        for row, answer in enumerate(classes.tolist()):
            if answer >= 0:
                read[row] = False
                read[row, list(bounds(answer, self.LONGEST))] = True
        return read

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The candidates' texts, cut out when asked for."""
        return Answers(encoding.tokens[row], encoding.sources[row][1], count, self.LONGEST)

    def answers(self, encoding: Encoding, row: int, classes: Sequence[int]) -> tuple[Span | None, ...]:
        """The characters of the context; see `Head.answers`."""
        answers = Answers(encoding.tokens[row], encoding.sources[row][1], 1 << 62, self.LONGEST)
        return tuple(answers.span(answer) for answer in classes)


HEADS: dict[str, type[Head]] = {
    "ForTokenClassification": TokenHead,
    "ForQuestionAnswering": SpanHead,
    "ForMaskedLM": MaskedTokenHead,
    "ForCausalLM": NextTokenHead,
    "LMHeadModel": NextTokenHead,
}
"""The head that a model class of transformers has, by how its name ends."""


def head_of(adapter: Adapter) -> Head:
    """The head of a transformers model, by the name of its class; a classifier's when the name says nothing else."""
    names = [cls.__name__ for cls in type(adapter.model).__mro__]
    found = (head for name in names for end, head in HEADS.items() if name.endswith(end))
    return next(found, Head)(adapter)


# -- the model's own ways --------------------------------------------------------------------------------------------


@contextmanager
def _narrowed(model: Any, focus: Tensor) -> Iterator[None]:
    """Let the vocabulary projection see one position of each row, so that logits are `[B, 1, V]`."""
    get: Callable[[], Any] | None = getattr(model, "get_output_embeddings", None)
    projection = get() if get is not None else None
    if projection is None:
        raise UnsupportedModelError(f"{type(model).__name__} does not say which layer makes its vocabulary logits")

    def narrow(module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state, *others = arguments
        return (state[torch.arange(len(focus), device=state.device), focus.to(state.device)][:, None], *others)

    hook = projection.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        hook.remove()


def config_activation(model: Any) -> Activation | None:
    """What a transformers configuration says of the outputs.

    `problem_type` decides; without it a single output is a regression, as in transformers' own losses, unless the
    configuration names a sigmoid for it, as cross-encoders of sentence-transformers do.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "problem_type", None)
    if kind is not None:
        known: dict[str, Activation] = {"multi_label_classification": "sigmoid", "regression": "none"}
        return known.get(kind)
    if getattr(config, "num_labels", None) != 1:
        return None
    encoder = getattr(config, "sentence_transformers", None) or {}
    named = str(encoder.get("activation_fn", "") if isinstance(encoder, dict) else "")
    return "sigmoid" if named.endswith("Sigmoid") else "none"


def _context(encoding: Encoding) -> Tensor:
    """bool `[B, T]`: tokens of the second text.

    Raises:
        InputError: if an input is no question with a context.
    """
    context = torch.zeros_like(encoding.mask)
    for row, tokens in enumerate(encoding.tokens):
        if tokens.segments is None or tokens.spans is None or not isinstance(encoding.sources[row], tuple):
            raise InputError(
                "question answering needs a question and a context, as a tuple (question, context), and a fast tokenizer"
            )
        pairs = zip(tokens.segments, tokens.spans, strict=True)
        inside = [segment == 1 and span is not None and span[0] < span[1] for segment, span in pairs]
        context[row, encoding.mask[row]] = torch.tensor(inside, device=context.device)
        if not any(inside):
            raise InputError("the context has no tokens: there is nothing to find an answer in")
    return context
