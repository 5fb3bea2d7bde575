"""What a reader is told beside the colours: the same words in the terminal, on a page and under a figure.

Everything here is plain text. Whoever draws it escapes it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from ..attribution import Attribution
from ..tokens import Interleaved, Word, group_words, trim
from .colour import largest, robust, strength

_WORDS: WeakKeyDictionary[Attribution, list[Word]] = WeakKeyDictionary()


def words_of(explanation: Attribution) -> list[Word]:
    """`Attribution.words`, grouped once however many parts of a drawing ask for them."""
    if explanation not in _WORDS:
        _WORDS[explanation] = explanation.words()
    return _WORDS[explanation]


@dataclass(frozen=True)
class Piece:
    """A stretch of text, or a token that stands apart, with its score.

    Args:
        text: the characters.
        score: the score, or None for characters that belong to no word (white space between words).
        strength: score relative to the strongest word, -1 to 1.
        marked: whether the prediction is about this stretch: the token that has a tag, the answer.
    """

    text: str
    score: float | None = None
    strength: float = 0.0
    marked: bool = False


def number(score: float, digits: int = 3) -> str:
    """A signed number, as `+0.42`."""
    return f"{score + 0.0:+.{digits}g}"  # + 0.0 turns the negative zero into zero


def one_line(text: str) -> str:
    """Without line ends and tabs."""
    return "".join(" " if character.isspace() else character for character in text)


def headline(explanation: Attribution) -> str:
    """The class that is explained, its probability, and what it is about, as `B-LOC 93.1% · tag of "Paris"`."""
    chance = explanation.probability
    label = explanation.label if chance is None else f"{explanation.label} {chance:.1%}"
    return " · ".join(part for part in (label, subject(explanation)) if part)


def subject(explanation: Attribution) -> str:
    """What a prediction is about, if not the whole input."""
    if explanation.answer is not None:
        return f"characters {explanation.answer.start} to {explanation.answer.end} of the context"
    if explanation.position is None:
        return ""
    about = {"causal language modeling": "what follows", "masked language modeling": "in place of"}
    return f'{about.get(explanation.task, "tag of")} "{_marked_text(explanation)}"'


def correction(explanation: Attribution) -> str | None:
    """What the model predicted, if that is not what is explained; in multi-label models, what else."""
    if explanation.activation == "none":
        return None
    others = [index for index in explanation.predictions if index != explanation.target]
    if others:
        several = explanation.target in explanation.predictions
        chances = explanation.probabilities
        named = ", ".join(f"{explanation.labels[index]} {float(chances[index]):.1%}" for index in others[:OTHERS])
        more = f" and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
        return f"{'also ' if several else ''}predicted: {named}{more}"
    return None if explanation.predictions else "no label is predicted: none is above 50%"


OTHERS = 5
"""Further predicted labels that are told by name."""


def origin(explanation: Attribution) -> str:
    """Method, options and model in one line."""
    return " · ".join(part for part in (explanation.recipe, explanation.model) if part)


def sides(explanation: Attribution) -> tuple[str, str]:
    """What the two colours mean: against, for."""
    if not explanation.class_specific:
        return "below zero", "weighs more, for any class"
    if explanation.activation == "none" and explanation.target is not None and explanation.against is None:
        name = explanation.labels[explanation.target]
        return f"lowers {name}", f"raises {name}"
    return f"speaks against {explanation.label}", f"speaks for {explanation.label}"


def coloured(explanation: Attribution, positive: bool = False) -> str:
    """What stands under the drawing: what its colours show."""
    if not explanation.class_specific:
        return "what weighs most, for any class"
    return "what speaks for it" if positive else "what speaks for and against"


MANY_PATCHES, MANY_WORDS = 16, 100
"""From so many on the colour scale ends at a percentile, and not at the strongest."""


def values(explanation: Attribution) -> list[float]:
    """The scores that are coloured: of the patches, of the words, or of the tokens where the words are not known."""
    if explanation.is_image:
        return [float(score) for score in explanation.grid.flatten().tolist()]
    if explanation.is_mixed:
        parts = [*(part for _, part in maps(explanation)), explanation.of_text()]
        return [score for part in parts for score in values(part)]
    if has_words(explanation):
        return [word.score for word in words_of(explanation)]
    pairs = zip(explanation.scores.tolist(), explanation.tokens.special, strict=True)
    return [score for score, special in pairs if not special]


def scale(*explanations: Attribution) -> float:
    """The score that gets the full colour, for one explanation or shared by several of a kind.

    The 99th percentile of the magnitudes, so that one outlier does not hide everything else; in a short text, the strongest.
    """
    if len(explanations) == 1:
        (only,) = explanations
        if only not in _SCALES:
            _SCALES[only] = _scale(only)
        return _SCALES[only]
    return _scale(*explanations)


_SCALES: WeakKeyDictionary[Attribution, float] = WeakKeyDictionary()
"""Of single explanations: every part of a drawing asks for it."""


def _scale(*explanations: Attribution) -> float:
    pooled = [score for explanation in explanations for score in values(explanation)]
    first = explanations[0] if explanations else None
    words = first is None or not (first.is_image or first.is_video or first.is_sound or first.is_mixed)
    return robust(pooled, MANY_WORDS if words else MANY_PATCHES)


def unit(explanation: Attribution) -> tuple[str, str]:
    """What has a score, one of them and several."""
    if explanation.is_image or explanation.is_video:
        one = "patch"
    elif explanation.is_sound:
        one = "moment" if explanation.tokens.bands is None else "patch"
    elif explanation.is_mixed:
        return "word and patch", "words and patches"
    else:
        one = "word" if has_words(explanation) else "token"
    return one, f"{one}es" if one == "patch" else f"{one}s"


def clipped(explanation: Attribution, full: float | None = None) -> str:
    """How many scores exceed the colour scale; empty if none does."""
    full = scale(explanation) if full is None else full
    scores = values(explanation)
    beyond = [score for score in scores if abs(score) > full * (1 + 1e-6)]
    if not beyond or not full:
        return ""
    most = max(beyond, key=abs)
    some = (
        f"{len(beyond)} of {len(scores)} {unit(explanation)[1]} {'exceeds' if len(beyond) == 1 else 'exceed'} the scale"
    )
    return f"Clipped: {some}, by up to {abs(most) / full:.1f} times ({number(most)})."


def concentrated(explanation: Attribution) -> str:
    """A warning when a few patches of a picture hold half of the magnitude; empty otherwise.

    Vision transformers without registers put large values on a few background patches (Darcet et al., ICLR 2024).
    """
    if not explanation.is_image:
        return ""
    magnitudes = np.sort(np.abs(explanation.grid.numpy().ravel()))[::-1]
    few = len(magnitudes) // FEW
    total = magnitudes.sum()
    if not few or not total or magnitudes[:few].sum() < total / 2:
        return ""
    count = int(np.searchsorted(np.cumsum(magnitudes), total / 2)) + 1
    hold = "1 patch holds" if count == 1 else f"{count} patches hold"
    return (
        f"{hold} more than half of the magnitude. If they are not on the object, they are outliers of the model rather than "
        "evidence (Darcet et al. 2024)."
    )


FEW = 50
"""A fiftieth of the patches are few."""


def notes(explanation: Attribution, full: float | None = None) -> list[str]:
    """Sentences that keep the reader from a wrong conclusion.

    Args:
        explanation: what is drawn.
        full: the score that gets the full colour, if not its own `scale`.
    """
    told = []
    things, _ = unit(explanation)
    if largest(explanation.scores.tolist()) == 0:
        told.append(f"All scores are zero: nothing here speaks for or against {explanation.label}.")
    else:
        if scale(explanation) == 0:
            told.append(f"The score of every {things} is zero.")
        told += filter(None, (clipped(explanation, full), concentrated(explanation)))
        if explanation.special.any():
            told.append(f"{explanation.special_share:.1%} of the total magnitude fell on special tokens.")
        if explanation.is_mixed:
            told += _without_map(explanation)
    if explanation.dropped:
        cut = "1 token was" if explanation.dropped == 1 else f"{explanation.dropped} tokens were"
        told.append(f"The text was too long: {cut} cut and not seen by the model.")
    return told + _windows(explanation)


def _without_map(explanation: Attribution) -> list[str]:
    """Which pictures have no map."""
    mapped = [number for number, _ in maps(explanation)]
    return [
        f"The tokens of {picture_name(explanation, number)} stand for it as a whole: they have a share, but no map."
        for number in range(explanation.pictures)
        if number not in mapped
    ]


def _windows(explanation: Attribution) -> list[str]:
    """In which parts a long text was read, and what the model said of each."""
    windows, target = explanation.windows, explanation.target
    if not windows:
        return []
    told = [
        f"The text was read in {len(windows)} overlapping windows: logits are their mean, and so is a score where they overlap."
    ]
    if target is not None:
        if explanation.activation == "none":
            values = [f"{window.logits[target]:.4g}" for window in windows]
        else:
            values = [f"{chance:.1%}" for chance in explanation.window_probabilities[:, target].tolist()]
        each = [f"{value} ({w.start} to {w.end})" for value, w in zip(values, windows, strict=True)]
        more = f", and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
        told.append(f"{explanation.labels[target]} by window (characters): {', '.join(each[:SHOWN])}{more}")
    return told


SHOWN = 12
"""Windows that are told one by one."""


# -- text ------------------------------------------------------------------------------------------------------------


def has_words(explanation: Attribution) -> bool:
    """True when the scores can be laid over the characters of the original text."""
    return explanation.tokens.spans is not None and isinstance(explanation.source, str | tuple | Interleaved)


def names(explanation: Attribution) -> list[str]:
    """What the input strings are called, where there are two."""
    if len(explanation.texts) == 1:
        return [""]
    return ["question", "context"] if explanation.task == "question answering" else ["first text", "second text"]


def _marked(explanation: Attribution) -> tuple[int, int, int] | None:
    """Text, first and last character of what the prediction is about."""
    if explanation.answer is not None:
        return 1, explanation.answer.start, explanation.answer.end
    tokens, position = explanation.tokens, explanation.position
    span = None if position is None or tokens.spans is None else tokens.spans[position]
    if span is None or position is None or not has_words(explanation):
        return None
    segment = (tokens.segments[position] if tokens.segments else 0) or 0
    return segment, *trim(explanation.texts[segment], span)


def _marked_text(explanation: Attribution) -> str:
    """The word of the token that the prediction is about; the token itself if it has none."""
    marked = _marked(explanation)
    if marked is not None:
        segment, start, end = marked
        for word in words_of(explanation):
            if word.segment == segment and word.start < end and word.end > start:
                return word.text
    return explanation.tokens.labels[explanation.position or 0]


def passages(explanation: Attribution, full: float | None = None) -> list[list[Piece]]:
    """One list of pieces per input string; joined, their texts are that string, character for character."""
    return cut(explanation, words_of(explanation), scale(explanation) if full is None else full)


def cut(explanation: Attribution, words: Sequence[Word], full: float) -> list[list[Piece]]:
    """The input strings cut into pieces: words, or other stretches that have a score, and what lies between."""
    marked = _marked(explanation)
    result = []
    for segment, text in enumerate(explanation.texts):
        pieces, reached = [], 0
        for word in (word for word in words if word.segment == segment):
            start = max(word.start, reached)  # overlapping words must not repeat characters
            if reached < start:
                pieces.append(Piece(text[reached:start]))
            if start < word.end:
                about = marked is not None and marked[0] == segment and start < marked[2] and word.end > marked[1]
                pieces.append(Piece(text[start : word.end], word.score, strength(word.score, full), about))
            reached = max(reached, word.end)
        if reached < len(text):
            pieces.append(Piece(text[reached:]))
        result.append(pieces)
    return result


def tokens(explanation: Attribution) -> list[Word]:
    """Every token that has characters of its own, as `Attribution.words` has the words."""
    held = explanation.tokens
    found = []
    for position, score in enumerate(explanation.scores.tolist()):
        span = held.spans[position] if held.spans else None
        if span is None or held.special[position] or span[0] == span[1]:
            continue
        segment = (held.segments[position] if held.segments else 0) or 0
        found.append(Word(explanation.texts[segment][span[0] : span[1]], *span, score, segment))
    return found


def sentences(explanation: Attribution) -> list[Word]:
    """Every sentence, as far as punctuation and line ends show it, with the sum of its words' scores."""
    found, words = [], words_of(explanation)
    for segment, text in enumerate(explanation.texts):
        for match in re.finditer(r"\S(?:[^.!?。！？\n]|[.!?](?=\w))*[.!?。！？]*", text):
            start, end = match.start(), match.start() + len(match.group().rstrip())
            inside = [word.score for word in words if word.segment == segment and start <= word.start < end]
            if inside:
                found.append(Word(text[start:end], start, end, sum(inside), segment))
    return found


def gist(explanation: Attribution) -> str:
    """The result in a sentence: which words, or how much of the picture, speak for the class and against it."""
    scores = values(explanation)
    total = sum(map(abs, scores))
    if not total:
        return ""
    if explanation.is_mixed:
        return " ".join(filter(None, (shares(explanation), gist(explanation.of_text()))))
    if explanation.is_image:
        half = f"half of it lies on {_area(scores, total)} of the patches"
        if not explanation.class_specific:
            return f"The weight is the same for every class; {half}."
        share = sum(score for score in scores if score > 0) / total
        return f"{share:.0%} of the magnitude speaks for {explanation.label}; {half}."
    if explanation.is_sound or explanation.is_video:
        return _place(explanation)
    words = words_of(explanation) if has_words(explanation) else []
    top = max((abs(word.score) for word in words), default=0.0)
    told = []
    verbs = (1, "speaks for it", "speak for it"), (-1, "speaks against it", "speak against it")
    if not explanation.class_specific:
        verbs = (1, "weighs most, for any class", "weigh most, for any class"), (-1, "is below zero", "are below zero")
    for sign, one, several in verbs:
        strong = [w for w in words if w.score * sign >= top / 6 > 0 and any(map(str.isalnum, w.text))]
        strong.sort(key=lambda word: -abs(word.score))
        names = list(dict.fromkeys(f"“{word.text[:40]}”" for word in strong))[:GIST]
        names = list(map(_isolated, names))
        if names:
            told.append(f"{_and(names)} {one if len(names) == 1 else several}")
    return "; ".join(told) + "." if told else ""


def _area(scores: Sequence[float], total: float) -> str:
    """The share of the patches that hold half of the magnitude."""
    ranked = np.cumsum(sorted(map(abs, scores), reverse=True))
    area = (int(np.searchsorted(ranked, total / 2)) + 1) / len(scores)
    return f"{area:.0%}" if area >= 0.01 else "less than 1%"


def _place(explanation: Attribution) -> str:
    """Where in time the strongest scores for the class are, and which part of the magnitude."""
    if explanation.is_sound:
        segments = explanation.segments()
        stretches = [(f"{segment.start:.2f} to {segment.end:.2f} s", segment.score) for segment in segments]
    else:
        sums = explanation.grid.sum((1, 2)).tolist()
        groups = explanation.tokens.frames or ()
        stretches = [
            (f"frame {first}" if end == first + 1 else f"frames {first} to {end - 1}", score)
            for (first, end), score in zip(groups, sums, strict=True)
        ]
    total = sum(abs(score) for _, score in stretches)
    where, most = max(stretches, key=lambda stretch: stretch[1])
    if not explanation.class_specific and total:
        return f"Most, for any class: {where}, with {most / total:.0%} of the magnitude."
    if most <= 0 or not total:
        return f"No moment speaks for {explanation.label}."
    return f"Most for {explanation.label}: {where}, with {most / total:.0%} of the magnitude."


GIST = 3
"""Words on each side that the sentence names."""


def _isolated(name: str) -> str:
    """A name that is written from right to left, so that the sentence around it keeps its order."""
    turned = any(unicodedata.bidirectional(character) in ("R", "AL") for character in name)
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}" if turned else name


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def apart(explanation: Attribution, full: float | None = None) -> list[Piece]:
    """The tokens that no word or patch shows: special ones, and those made of white space alone."""
    return _chips(explanation, _hidden(explanation), full)


def chips(explanation: Attribution, full: float | None = None) -> list[Piece]:
    """The tokens that are not special, for an explanation whose words are not known."""
    places = explanation.tokens.places or (None,) * len(explanation.tokens)
    chosen = [not special and place is None for special, place in zip(explanation.tokens.special, places, strict=True)]
    return _chips(explanation, chosen, full)


def _hidden(explanation: Attribution) -> list[bool]:
    if not has_words(explanation):
        return list(explanation.tokens.special)
    if explanation.is_mixed:
        apart = iter(_hidden(explanation.of_text()))
        return [place is None and next(apart) for place in explanation.tokens.places or ()]
    shown = {position for *_, positions in group_words(explanation.tokens, explanation.texts) for position in positions}
    return [position not in shown for position in range(len(explanation.tokens))]


def _chips(explanation: Attribution, chosen: list[bool], full: float | None = None) -> list[Piece]:
    full = scale(explanation) if full is None else full
    every = zip(explanation.tokens.labels, explanation.scores.tolist(), chosen, strict=True)
    return [Piece(label, score, strength(score, full)) for label, score, choose in every if choose]


# -- image -----------------------------------------------------------------------------------------------------------


def has_blind_area(explanation: Attribution) -> bool:
    """True when a crop hid a part of the picture from the model."""
    if explanation.is_mixed:
        return any(has_blind_area(part) for _, part in maps(explanation))
    view = explanation.tokens.view
    if view is None:
        return False
    left, top, right, bottom = view.box
    # a pixel is seen when its centre is
    return left > 0.5 or top > 0.5 or right < view.width - 0.5 or bottom < view.height - 0.5


def maps(explanation: Attribution) -> list[tuple[int, Attribution]]:
    """The pictures of a mixed sequence that have a map: their numbers, and what lies on each, as of a picture."""
    if explanation not in _MAPS:
        patches = explanation.tokens.patches or ()
        placed = sorted({one.picture for one in patches if one.grid is not None})
        _MAPS[explanation] = [(number, explanation.of_image(number)) for number in placed]
    return _MAPS[explanation]


_MAPS: WeakKeyDictionary[Attribution, list[tuple[int, Attribution]]] = WeakKeyDictionary()


def picture_name(explanation: Attribution, number: int) -> str:
    """What a picture is called."""
    return "the picture" if explanation.pictures == 1 else f"picture {number + 1}"


def shares(explanation: Attribution) -> str:
    """How the magnitude is divided, e.g. `62 % picture, 30 % text, 8 % special.`"""
    return f"{explanation.shares()} (of the total magnitude)."


def strongest(explanation: Attribution) -> str:
    """Where the strongest patch is, for readers who cannot see the picture."""
    grid = explanation.grid.numpy()
    row, column = np.unravel_index(int(np.abs(grid).argmax()), grid.shape)
    if not grid[row, column]:
        return "no patch has a score"
    side = "for" if grid[row, column] > 0 else "against"
    place = f"row {row + 1} of {grid.shape[0]}, column {column + 1} of {grid.shape[1]}"
    whom = f"{side} {explanation.label}" if explanation.class_specific else "for any class"
    return f"strongest patch: {place}, {number(float(grid[row, column]))} ({whom})"
