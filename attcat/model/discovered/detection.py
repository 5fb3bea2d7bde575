"""Detectors: an encoder over the picture, whose output a decoder reads with queries of its own, one for each box.

The encoder's blocks are the model's; the decoder is a part of the head, which reads all of the picture's tokens. Its queries and
their positions are parameters: nothing of the picture passes them by. Where queries join the tokens between two blocks of one
list, the blocks from there on are the decoder.
"""

from __future__ import annotations

from itertools import takewhile

from ...capture.survey import Survey, Unclear, Visit, outermost


def encoder_of(watched: Survey) -> list[Visit]:
    """The calls of the encoder's blocks, in order: the first of a list that attend over the same positions as they pass on.

    Raises:
        Unclear: if there are none, or something attends before they are through.
    """
    able = outermost([v for v in watched.visits if v.module in watched.listed and v.attends and v.keeps_shape])
    if not able:
        raise Unclear("no modules of a list take a hidden state, attend over its positions, and pass on such a state")
    first = able[0]
    alike = (visit for visit in able if visit.parent is first.parent and type(visit.module) is type(first.module))
    blocks = list(takewhile(lambda visit: visit.length == first.length, alike))
    within = {id(attention) for block in blocks for attention in block.seen}
    numbers = [index for index, attention in enumerate(watched.attention) if id(attention) in within]
    if numbers != list(range(len(numbers))):
        raise Unclear("something else attends before its encoder's blocks are through")
    return blocks
