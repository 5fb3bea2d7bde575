"""What the numbers in a model's output stand for, and at which tokens they are read: the task.

The core explains one number out of a row of logits `[B, C]`. A head makes that row from the model's output: unchanged for a
classifier; the row of one token for a tagger or a language model; all candidate answers for question answering. From there
on every task is a classification, with predicted classes, contrasts and probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, Option, OptionError, ProcessorError, TargetError, UnsupportedModelError
from ..probabilities import Activation, Quantity, quantity, settled
from ..tokens import Asked, Span, Tokens
from .encoding import Encoding, first_of
from .labels import Answers, Vocabulary, bounds
from .locate import find_token, listed_words
from .wrappers import output_embeddings

Token = str | int | slice | None
"""Which token: a word or piece of the text, the word's number, a slice of characters, or None for the head's own choice."""


class Head:
    """A classifier's head: one row of class logits per input. Other heads derive from it.

    Args:
        model: the model.
        processor: its tokenizer, if the task needs one.
        labels: the names of the classes, if they are known.
        readout: which tokens a classifier reads, bool `[B, T]`, of a batch; by default the first token.
    """

    task: ClassVar[str] = "classification"
    of_words: ClassVar[bool] = False
    """Whether its classes are the words of a vocabulary."""
    kept: ClassVar[int | None] = None
    """How many of the best classes an Explanation keeps; None for all."""
    reads_tokens: ClassVar[bool] = False
    """Whether the head itself says which tokens the explained prediction reads."""
    one_input: ClassVar[bool] = False
    """Whether all rows of a batch stand for one input: its candidates, one of which is explained."""
    aims: ClassVar[bool] = False
    """Whether a target may name a place as well as a class; see `aim`."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any = None,
        labels: Sequence[str] | None = None,
        readout: Callable[[Encoding], Tensor] = lambda encoding: first_of(encoding.mask),
    ) -> None:
        self.model = model
        self.processor = processor
        self.names = labels
        self.readout = readout

    @property
    def activation(self) -> Activation | None:
        """How logits become probabilities; None if the model does not say."""
        return config_activation(self.model)

    def measure(self, which: Quantity, logits: Tensor, classes: Tensor) -> Tensor:
        """What is explained of one class per row, `[N]`; see `attcat.probabilities.quantity`."""
        return quantity(logits, classes, which, settled(self.activation, logits.shape[1]))

    def samples(self) -> list[Any]:
        """Inputs to check a text model of this task with, of different lengths."""
        return ["A gripping, very long film!", "It rained."]

    def texts(self, value: Any) -> list[Any]:
        """The texts, one per row, that represent an input to the model.

        Raises:
            InputError: if the task needs another kind of input.
        """
        return [value]

    def arguments(self, encoding: Encoding) -> Mapping[str, Tensor]:
        """The arguments that the model is called with."""
        return encoding.arguments

    def shown(self, encoding: Encoding, classes: Tensor) -> list[int]:
        """For each input, the row whose tokens explain these classes `[B]` (-1 for a function)."""
        return list(range(len(encoding.tokens)))

    def trial(self, encoding: Encoding, row: int) -> Token:
        """The token to check an example with; None for the head's own choice."""
        return None

    def reading(self, encoding: Encoding) -> AbstractContextManager[None]:
        """A context for running the model in which it computes no more than is needed for the explanation."""
        return nullcontext()

    def logits(self, output: Any) -> Any:
        """The logits in a model's output, in the model's own shape; None if there are none."""
        return output if isinstance(output, Tensor) else getattr(output, "logits", None)

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The rows `[B, C]`, of which one number each is explained, from what `logits` returns.

        Raises:
            UnsupportedModelError: if the model's output is not this task's logits.
        """
        if isinstance(logits, Tensor) and logits.shape == (len(encoding.tokens),):
            return logits[:, None]  # one number for each input, as of a regression
        if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == (len(encoding.tokens), 1):
            return logits[:, 0]  # of one query that pools all tokens
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no class logits [B, C]: load the model with its head "
                f"(AutoModelForSequenceClassification, AutoModelForImageClassification, ...{', ...'.join(HEADS)}), or register a "
                "head of your own (attcat.register_head)"
            )
        return logits

    def point(self, encoding: Encoding, tokens: Sequence[Token]) -> Encoding:
        """The encoding with the token that is explained, for each row.

        Raises:
            InputError: if there is no such token, or the task has none.
        """
        if any(token is not None for token in tokens):
            raise InputError(
                f"{type(self.model).__name__} gives one prediction for the whole input: leave out ", Option("token")
            )
        return encoding

    def aim(self, target: Any) -> tuple[Any, Any]:
        """Where and what: the place that a target names (as `point` takes it), and the class there."""
        return None, target

    def place_of(self, encoding: Encoding, row: int) -> tuple[Any, ...]:
        """The place that is explained, as a target names it before the class; empty if there is none."""
        return ()

    def is_open(self, encoding: Encoding) -> bool:
        """Whether the place that is explained has yet to be chosen by what the model predicts."""
        return False

    def settle(self, encoding: Encoding, logits: Any) -> Encoding:
        """The encoding with the place that is chosen by the logits of a pass, as `logits` gives them."""
        return encoding

    def prefer(self, target: Any, logits: Tensor) -> Any:
        """The class that is meant by a target, if the head means another than the target says, given a row's logits `[C]`."""
        return target

    def titled(self, label: str, encoding: Encoding, row: int, output: Any) -> str:
        """What an explanation of a class is called, given the model's output."""
        return label

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """Which tokens the head reads for these classes `[B]` (-1 for a function), bool `[B, T]`."""
        return self.readout(encoding)

    def reads_alike(self, before: Encoding, after: Encoding) -> bool:
        """Whether the same positions are read after some tokens were replaced: not if the head searches for one."""
        return torch.equal(self.readout(before), self.readout(after))

    def pinned(self, encoding: Encoding) -> Tensor:
        """bool `[B, T]`: tokens that cannot be removed, because the prediction that is explained is about them."""
        return torch.zeros_like(encoding.mask)

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The names of the `count` classes of a row."""
        names = self.names
        return names if names is not None and len(names) == count else tuple(f"class {index}" for index in range(count))

    def position(self, encoding: Encoding, row: int) -> int | None:
        """The token of an unpadded example whose prediction is explained; None if it is the whole input's."""
        return None

    def answers(self, encoding: Encoding, row: int, classes: Sequence[int]) -> tuple[Span | None, ...] | None:
        """The characters that the classes stand for; None if they are not stretches of text."""
        return None


class TokenHead(Head):
    """One prediction per token: tagging. The row of one token is explained, and only that token is read."""

    task = "token classification"
    reads_tokens = True

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

    def trial(self, encoding: Encoding, row: int) -> Token:
        """The second word, or without a text the second token."""
        return 1

    def find(self, encoding: Encoding, row: int, token: str | int | slice) -> int:
        """The position (of the unpadded example) whose prediction is about this token."""
        return find_token(encoding.tokens[row], encoding.sources[row], token)

    def choose(self, encoding: Encoding, row: int) -> int:
        """The position when the user names none."""
        raise InputError(
            f"{type(self.model).__name__} gives one prediction per token: say which one with ",
            Option("token", "word"),
            listed_words(encoding.tokens[row], encoding.sources[row]),
        )

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The row of the token that is explained, of logits `[B, T, C]`."""
        focus = self._focus(encoding)
        length = encoding.mask.shape[1] - encoding.offset
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[1] != length:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no logits [B, T, C], one row for each of its {length} tokens: its output has "
                f"{_shape(logits)}"
            )
        return logits[torch.arange(len(focus), device=focus.device), focus - encoding.offset]

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """The token whose prediction is explained."""
        return F.one_hot(self._focus(encoding), encoding.mask.shape[1]).bool()

    def reads_alike(self, before: Encoding, after: Encoding) -> bool:
        """The position is given, not searched for."""
        return True

    def pinned(self, encoding: Encoding) -> Tensor:
        """The token whose prediction is explained (of a causal language model the one before the predicted token)."""
        return self.read(encoding, self._focus(encoding))

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
    of_words = True
    kept = 20

    def trial(self, encoding: Encoding, row: int) -> Token:
        """What follows the text."""
        return None

    def find(self, encoding: Encoding, row: int, token: str | int | slice) -> int:
        """The position before the token, which predicts it."""
        position = super().find(encoding, row, token)
        if position <= encoding.offset:
            first = encoding.tokens[row].labels[position]
            raise InputError(
                f"nothing comes before {first!r}, so it is not predicted: choose a later token"
                if not encoding.offset
                else f"{first!r} belongs to the source, which is not predicted: choose a token that follows it"
            )
        return position - 1

    def choose(self, encoding: Encoding, row: int) -> int:
        """The last token, which predicts what follows the text."""
        return len(encoding.tokens[row]) - 1

    def reading(self, encoding: Encoding) -> AbstractContextManager[None]:
        """Compute the logits of one position instead of all, `[B, T, V]`, if the model says which layer makes them."""
        focus = self._focus(encoding) - encoding.offset
        return self._narrowing(lambda state: state[torch.arange(len(focus)), focus.to(state.device)][:, None])

    def _narrowing(self, pick: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        projection = output_embeddings(self.model)
        unknown = projection is None or isinstance(projection, nn.Embedding)  # which is called with token numbers
        return nullcontext() if unknown else _narrowed(projection, pick)

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The position that is explained: the only one of logits `[B, 1, V]`, or one of `[B, T, V]`."""
        length = encoding.mask.shape[1] - encoding.offset
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[1] != 1 or length == 1:
            return super().rows(logits, encoding)
        last = (self._focus(encoding) == encoding.mask.shape[1] - 1).all()
        if not last and output_embeddings(self.model) is None:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} gives logits of the last position only: only what follows a text can be explained"
            )
        return logits.squeeze(1)

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The vocabulary; names are made on demand."""
        return Vocabulary(self.processor, count)


class WrittenHead(NextTokenHead):
    """What a causal language model wrote after a prompt: of one sequence the rows of all tokens that were written."""

    def reading(self, encoding: Encoding) -> AbstractContextManager[None]:
        """Logits are computed of the positions before the written tokens, which predict them."""
        start, length = encoding.start - encoding.offset, encoding.mask.shape[1] - encoding.offset
        return self._narrowing(lambda state: state[:, start - 1 : length - 1])

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """Of logits `[1, A, V]` the rows, one for each of the A written tokens; of `[1, T, V]` theirs."""
        start, length = encoding.start - encoding.offset, encoding.mask.shape[1] - encoding.offset
        if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == (1, length):
            logits = logits[:, start - 1 : length - 1]  # of a model that does not say which layer makes them
        count = length - start
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != (1, count):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} gives logits {_shape(logits)}, expected [1, {count}, V]: one row for each of the "
                "tokens that were written"
            )
        return logits.squeeze(0)

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """For each written token the one before it, bool `[A, T]`."""
        length = encoding.mask.shape[1]
        return torch.eye(length, dtype=torch.bool, device=encoding.mask.device)[encoding.start - 1 : length - 1]


class MaskedTokenHead(NextTokenHead):
    """A masked language model: why this token at this place, usually that of `[MASK]`."""

    task = "masked language modeling"

    def samples(self) -> list[Any]:
        """Each with one mask token."""
        mask = getattr(self.processor, "mask_token", None) or "it"
        return [f"A gripping, very long {mask} from France!", f"It {mask}."]

    def find(self, encoding: Encoding, row: int, token: str | int | slice) -> int:
        """The token's own position."""
        return TokenHead.find(self, encoding, row, token)

    def trial(self, encoding: Encoding, row: int) -> Token:
        """The mask token if there is one, else the second word."""
        mask_id = getattr(self.processor, "mask_token_id", None)
        ids = encoding.arguments["input_ids"][row, encoding.mask[row]].tolist()
        return None if ids.count(mask_id) == 1 else 1

    def choose(self, encoding: Encoding, row: int) -> int:
        """The mask token, if there is exactly one."""
        processor = self.processor
        mask_id, name = getattr(processor, "mask_token_id", None), getattr(processor, "mask_token", None)
        if mask_id is None:
            raise ProcessorError(
                "the tokenizer has no mask token: say which token to explain with ", Option("token", "word")
            )
        ids = encoding.arguments["input_ids"][row, encoding.mask[row]]
        places = (ids == mask_id).nonzero().flatten().tolist()
        if len(places) == 1:
            return int(places[0])
        if places:
            raise InputError(
                f"{name} occurs {len(places)} times in the text: say which one by the number of the word, e.g. ",
                Option("token", 2),
                listed_words(encoding.tokens[row], encoding.sources[row]),
            )
        raise InputError(
            f"there is no {name} in the text: put it where a word is predicted, or name one by ",
            Option("token", "word"),
        )


class SpanHead(Head):
    """Extractive question answering: the classes are the candidate answers, and `(no answer)`.

    The logit of an answer is start logit + end logit; that of no answer, both at the first token (Devlin et al., BERT,
    NAACL 2019, sections 4.2 and 4.3). Softmax over the candidates is the product of both probabilities, restricted to the
    valid spans: `start <= end` in the context, at most `LONGEST` tokens.
    """

    task = "question answering"
    kept = 20
    reads_tokens = True
    LONGEST: ClassVar[int] = 30

    @property
    def activation(self) -> Activation:
        """One of several classes."""
        return "softmax"

    def samples(self) -> list[Any]:
        """Questions with contexts."""
        return [("Who made it?", "A long film by Ann."), ("What?", "It rained.")]

    def logits(self, output: Any) -> Any:
        """Start and end logits, `[B, T, 2]`; None if the output has none.

        Raises:
            UnsupportedModelError: if the head searches for answers, so that there are log-probabilities of those it found alone.
        """
        if getattr(output, "start_top_log_probs", None) is not None:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} searches for the best few starts and for an end of each, so that it gives no "
                "logits for every token: load a head that does, as ...ForQuestionAnsweringSimple, or use a tagger"
            )
        start, end = (getattr(output, name, None) for name in ("start_logits", "end_logits"))
        return torch.stack([start, end], -1) if isinstance(start, Tensor) and isinstance(end, Tensor) else None

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The logits of all candidates, `[B, 1 + T * LONGEST]`; -inf where there is none."""
        if not isinstance(logits, Tensor) or logits.shape != (*encoding.mask.shape, 2):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no start and end logits [B, T], one for each token: it gives {_shape(logits)}"
            )
        context = _context(encoding)
        start, end = logits.unbind(-1)
        ends = F.pad(end, (0, self.LONGEST - 1)).unfold(1, self.LONGEST, 1)  # [B, T, LONGEST], of s, s + 1, ...
        valid = context[:, :, None] & F.pad(context, (0, self.LONGEST - 1)).unfold(1, self.LONGEST, 1)
        spans = (start[:, :, None].expand_as(ends) + ends).masked_fill(~valid, -torch.inf)
        return torch.cat([(start[:, 0] + end[:, 0])[:, None], spans.flatten(1)], dim=1)

    def read(self, encoding: Encoding, classes: Tensor) -> Tensor:
        """The first and the last token of the answer; every candidate's when a function is explained."""
        read = _context(encoding)
        for row, answer in enumerate(classes.tolist()):
            if answer >= 0:
                read[row] = False
                read[row, list(bounds(answer, self.LONGEST))] = True
        return read

    def reads_alike(self, before: Encoding, after: Encoding) -> bool:
        """Answers are numbered by position, and no answer is read at the first token."""
        return True

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The candidates' texts, made on demand."""
        return Answers(*_with_context(encoding, row), count, self.LONGEST)

    def answers(self, encoding: Encoding, row: int, classes: Sequence[int]) -> tuple[Span | None, ...] | None:
        """The characters of the context; see `Head.answers`. None of a page, whose question stands in the same text."""
        if isinstance(encoding.sources[row], Asked):
            return None
        answers = Answers(*_with_context(encoding, row), 1 << 62, self.LONGEST)
        return tuple(answers.span(answer) for answer in classes)


class ChoiceHead(Head):
    """Multiple choice: `(prompt, [choice, choice, ...])`, where each choice is read together with the prompt.

    The model scores each pair `(prompt, choice)` on its own, one row of the batch each; the scores of a prompt's choices are the
    classes. An explanation shows the pair whose choice is explained.
    """

    task = "multiple choice"
    one_input = True

    def samples(self) -> list[Any]:
        """A prompt and its choices."""
        return [("It rained.", ["It was wet, very wet!", "It was dry."])]

    def texts(self, value: Any) -> list[Any]:
        """One pair per choice."""
        choices = value[1] if isinstance(value, tuple) and len(value) == 2 else None
        if not isinstance(choices, (list, tuple)) or len(choices) < 2:
            raise InputError(
                f"{type(self.model).__name__} needs a prompt and at least two choices: (prompt, [choice, choice])"
            )
        return [(value[0], choice) for choice in choices]

    def arguments(self, encoding: Encoding) -> dict[str, Tensor]:
        """`[1, C, T]`."""
        return {name: value[None] for name, value in encoding.arguments.items()}

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The scores of all C choices in each of the C rows, `[C, C]`; a row depends on its own pair alone."""
        count = len(encoding.tokens)
        if not isinstance(logits, Tensor) or logits.shape != (1, count):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no scores [1, {count}], one for each choice: it gives {_shape(logits)}"
            )
        own = torch.eye(count, dtype=torch.bool, device=logits.device)
        return torch.where(own, logits, logits.detach())

    def shown(self, encoding: Encoding, classes: Tensor) -> list[int]:
        """The row of the choice that is explained.

        Raises:
            TargetError: if a function is explained, which belongs to no choice.
        """
        choice = int(classes[0])
        if choice < 0:
            raise TargetError("name the choice to explain by its text or number, not by a function")
        return [choice]

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The choices' texts; numbers where model arguments were given."""
        return tuple(
            source[1] if isinstance(source, tuple) else f"choice {number}"
            for number, source in enumerate(encoding.sources)
        )


HEADS: dict[str, type[Head]] = {
    "ForMultipleChoice": ChoiceHead,
    "ForTokenClassification": TokenHead,
    "ForQuestionAnswering": SpanHead,
    "ForQuestionAnsweringSimple": SpanHead,
    "ForMaskedLM": MaskedTokenHead,
    "ForCausalLM": NextTokenHead,
    "LMHeadModel": NextTokenHead,
}
"""The head that a model class has, by how its name ends; `register_head` adds one."""

HeadType = TypeVar("HeadType", bound=type[Head])


def register_head(*ends: str) -> Callable[[HeadType], HeadType]:
    """Class decorator: this head is that of the models whose class, or a base class, has a name that ends so.

    Args:
        ends: of a class's name, e.g. `"ForMyTask"`; of two that fit a name the longer one counts.

    Raises:
        OptionError: if there is another head for one of the ends. The same class may come again, also when the notebook cell
            that defines it is run again.
    """
    if not ends or not all(isinstance(end, str) and end.isidentifier() for end in ends):
        raise TypeError('register_head takes ends of class names, e.g. "ForMyTask"')

    def add(head: HeadType) -> HeadType:
        if not (isinstance(head, type) and issubclass(head, Head)):
            raise TypeError(f"{head!r} is not a subclass of attcat.model.Head")
        where = head.__module__, head.__qualname__
        there = {end: HEADS.get(end, head) for end in ends}
        taken = [end for end, other in there.items() if (other.__module__, other.__qualname__) != where]
        if taken:
            raise OptionError(
                f"there is a head for {taken[0]} already, {there[taken[0]].__qualname__}: give another end of the model class's "
                f"name; taken are {', '.join(HEADS)}"
            )
        HEADS.update(dict.fromkeys(ends, head))
        return head

    return add


def head_of(model: nn.Module) -> type[Head]:
    """The head of a model, by the name of its class or the nearest base class; a classifier's when no name says anything."""
    for cls in type(model).__mro__:
        fitting = [end for end in HEADS if cls.__name__.endswith(end)]
        if fitting:
            return HEADS[max(fitting, key=len)]
    return Head


# -- the model's own ways --------------------------------------------------------------------------------------------


@contextmanager
def _narrowed(projection: nn.Module, pick: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the vocabulary projection see only what `pick` takes of the last hidden state `[B, T, D]`."""

    def narrow(module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        state, *others = arguments
        return (pick(state), *others)

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


def _shape(logits: Any) -> str:
    return str(tuple(logits.shape)) if isinstance(logits, Tensor) else "none"


def _with_context(encoding: Encoding, row: int) -> tuple[Tokens, str]:
    """The tokens, of which those of the context are of a second text; and that text.

    Raises:
        InputError: if the input is not a question with a context.
    """
    tokens, source = encoding.tokens[row], encoding.sources[row]
    if tokens.segments is None or tokens.spans is None or not isinstance(source, (tuple, Asked)):
        raise InputError(
            "question answering needs a question and a context, as a tuple (question, context), and a fast tokenizer; of a page "
            "(page, question, words, boxes) and the processor for both"
        )
    if isinstance(source, tuple):
        return tokens, str(source[1])
    start = source.context
    spans = tuple(s if s is None or s[0] < start else (s[0] - start, s[1] - start) for s in tokens.spans)
    segments = tuple(None if span is None else int(span[0] >= start) for span in tokens.spans)
    return replace(tokens, spans=spans, segments=segments), source.text[start:]


def _context(encoding: Encoding) -> Tensor:
    """bool `[B, T]`: tokens of the second text.

    Raises:
        InputError: if an input is not a question with a context.
    """
    context = torch.zeros_like(encoding.mask)
    for row in range(len(encoding.tokens)):
        tokens, _ = _with_context(encoding, row)
        pairs = zip(tokens.segments or (), tokens.spans or (), strict=True)
        inside = [segment == 1 and span is not None and span[0] < span[1] for segment, span in pairs]
        context[row, encoding.mask[row]] = torch.tensor(inside, device=context.device)
        if not any(inside):
            raise InputError("the context has no tokens: give a text to find an answer in")
    return context
