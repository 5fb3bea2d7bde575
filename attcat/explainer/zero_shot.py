"""Classes that are named when a text is read (Yin et al., EMNLP 2019): does the text entail "This example is about sport."?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError, UnsupportedModelError
from ..model import Adapter

TEMPLATE = "This example is {}."
"""The hypothesis, as transformers' zero-shot pipeline words it."""


def entailment(adapter: Adapter) -> int:
    """The class by which a model of natural language inference says that the second text follows from the first.

    Raises:
        UnsupportedModelError: if no class is called so.
    """
    labels = adapter.labels or ()
    found = [number for number, label in enumerate(labels) if label.lower().startswith("entail")]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"labels= asks whether a text entails each of them, but {type(adapter.model).__name__} has no class called "
            f"entailment: it has {', '.join(map(repr, labels[:20])) or 'no named classes'}"
        )
    return found[0]


def hypotheses(text: Any, labels: Sequence[str], template: str) -> list[tuple[str, str]]:
    """The pairs that the model reads, one for each label.

    Raises:
        InputError: if there is no text, no label, or the template has no place for one.
    """
    if not isinstance(text, str):
        raise InputError(f"labels= is for texts: got {type(text).__name__}")
    if isinstance(labels, str) or not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise InputError(f'labels={labels!r}: give a list of names, e.g. ["politics", "sport"]')
    if template.count("{}") != 1:
        raise InputError(f"template={template!r}: it needs one {{}} where the label goes")
    return [(text, template.replace("{}", label)) for label in labels]
