"""The names of very many classes: a vocabulary, or every stretch of a text. Each name is made on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from ..errors import Option, TargetError
from ..targets import Lookup, integer
from ..tokens import Span, Tokens, trim
from .locate import characters, occurrences, overlaps


class _Listing(Lookup):
    """A sequence of names that are made on demand."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def name(self, index: int) -> str:
        """One name."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self.name(i) for i in range(*index.indices(self.size))]
        return self.name(range(self.size)[index])


class Vocabulary(_Listing):
    """The tokens of a vocabulary as readable text: ` Paris` rather than `ĠParis`.

    Args:
        tokenizer: a transformers tokenizer, or None (tokens are then called `#17`).
        count: how many logits there are; may be more than the tokenizer knows.
    """

    def __init__(self, tokenizer: Any, count: int) -> None:
        super().__init__(count)
        self.tokenizer = tokenizer

    def name(self, index: int) -> str:
        """The token's text; its raw form where it is not text on its own (half of an emoji)."""
        raw = None if self.tokenizer is None else self.tokenizer.convert_ids_to_tokens(index)
        if raw is None:
            return f"#{index}"
        text = str(self.tokenizer.decode([index]))
        return text if text.strip() and "\ufffd" not in text else str(raw)

    def find(self, target: Any) -> int:
        """The number of a token: by number, by text that is one token (` Paris`), or by its raw form (`##ing`).

        Raises:
            TargetError: if it is not a token.
        """
        index = integer(target)
        if index is not None:
            if not 0 <= index < self.size:
                raise TargetError(f"no token number {index}: the vocabulary has 0 to {self.size - 1}")
            return index
        if not isinstance(target, str) or not target:
            raise TargetError(f"a target is a token's text or number, not {target!r}")
        if self.tokenizer is None:
            raise TargetError(f"finding {target!r} in the vocabulary needs a tokenizer: Explainer(model, tokenizer)")
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        ids = self.tokenizer.encode(target, add_special_tokens=False)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if target in vocabulary and (len(ids) != 1 or ids[0] == unknown):
            return vocabulary[target]
        if len(ids) == 1 and (ids[0] != unknown or target == self.tokenizer.unk_token):
            return int(ids[0])
        if len(ids) <= 1:
            raise TargetError(f"{target!r} is not in the vocabulary: give one of its tokens, or a token's number")
        pieces = ", ".join(repr(self.name(i)) for i in ids[:8])
        raise TargetError(f"{target!r} is {len(ids)} tokens ({pieces}): give one of them")


class Answers(_Listing):
    """Candidate answers: number 0 is `(no answer)`, number 1 + s * longest + l the tokens s to s + l.

    Args:
        tokens: those of the question and the context.
        context: the text that holds the answers.
        count: how many candidates there are.
        longest: the most tokens of an answer.
    """

    NONE = "(no answer)"

    def __init__(self, tokens: Tokens, context: str, count: int, longest: int) -> None:
        super().__init__(count)
        self.tokens, self.context, self.longest = tokens, context, longest

    def span(self, index: int) -> Span | None:
        """The characters of a candidate in the context; None for no answer."""
        if index == 0:
            return None
        spans = self.tokens.spans or ()
        first, last = (spans[bound] for bound in bounds(index, self.longest))
        assert first is not None
        assert last is not None
        return trim(self.context, (first[0], last[1]))

    def name(self, index: int) -> str:
        """The candidate's text."""
        span = self.span(index)
        return self.NONE if span is None else self.context[slice(*span)]

    def find(self, target: Any) -> int:
        """A candidate by its text, which must occur once, by a slice of the context's characters, or by its number.

        Raises:
            TargetError: if it is not a candidate.
        """
        if isinstance(target, str) and target == self.NONE:
            return 0
        if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < self.size:
            return target
        if isinstance(target, str):
            found = occurrences(self.context, target)
            if len(found) != 1:
                places = ", ".join(f"slice({start}, {start + len(target)})" for start in found[:5])
                raise TargetError(
                    f"{target!r} occurs {len(found)} times in the context: give one by its characters, e.g. {places}"
                    if found
                    else f"{target!r} is not in the context: an answer is a part of it, or {self.NONE!r}"
                )
            target = slice(found[0], found[0] + len(target))
        if not isinstance(target, slice):
            raise TargetError(
                f"give an answer by its text or as slice(start, end) of the context, not {target!r}; ",
                Option("top_k", 3),
                " explains the best three",
            )
        start, end = place = characters(target, self.context, TargetError)
        inside = [
            position
            for position, span in enumerate(self.tokens.spans or ())
            if span and self.tokens.segments and self.tokens.segments[position] == 1 and overlaps(span, place)
        ]
        if not inside:
            raise TargetError(f"there is no token at the characters {start} to {end} of the context")
        if inside[-1] - inside[0] >= self.longest:
            raise TargetError(
                f"the answer has {inside[-1] - inside[0] + 1} tokens, candidates have at most {self.longest}: shorten it"
            )
        return 1 + inside[0] * self.longest + inside[-1] - inside[0]


def bounds(answer: int, longest: int) -> tuple[int, int]:
    """First and last token of a candidate; for no answer, both are the very first token."""
    if answer == 0:
        return 0, 0
    first, more = divmod(answer - 1, longest)
    return first, first + more
