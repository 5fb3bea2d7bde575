"""How well methods find known evidence in words and patches: the table of docs/evaluation_shapes.md.

    python -m attcat.demos.shapes_page [--questions 60] [--write docs/evaluation_shapes.md] [--records FOLDER]
                                       [--seed 2] [--methods NAME,NAME:option=value,...]

Explains answers of the model `embedded.shapes` about pictures that it was not trained on, if they are right. Which patches and
which words decide an answer is known, so every figure is against the truth. With a folder it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import attcat
from attcat.evaluation.statistics import compare, estimate
from attcat.files import write_atomically
from attcat.metrics import gold_tokens, precision_at_k
from attcat.metrics.agreement import rank_correlation, shares_and_falls
from attcat.metrics.localisation import covered, points_at, relevance_in_boxes

from .embedded import shapes
from .shapes import BEFORE, Question, Scene, prompt, scenes

METHODS = (
    "oddscat",
    "oddscat:quantity=log-odds",
    "oddscat:blocks=all",
    "attcat",
    "attcat+plain",
    "attnlrp",
    "rollout",
    "genatt",
    "tam",
    "input_x_gradient",
    "occlusion",
    "random",
)
SEED = 2
"""Of the pictures: neither those of the training nor those on which its accuracy was measured."""
COLUMNS = {
    "inside": "relevance inside",
    "pointing": "pointing",
    "words": "precision of words",
    "moved": "other picture",
}
"""What is measured of each question, and its heading."""


TRIED = """\
## What was tried

Other readings of the same method, on 120 questions about other pictures (seed 7, 2026-11-25), so that nothing is chosen by the
questions above, and before OddsCAT read the first block of a causal model. Between two seeds a method's figures differ by up to
0.1.

| method | relevance inside | precision of words |
|---|---|---|
| `oddscat:blocks=all:quantity=log-odds` | 0.503 | 0.629 |
| `oddscat:blocks=all:quantity=logit` | 0.505 | 0.735 |
| `oddscat:blocks=all:quantity=logit:beta=1` | 0.503 | 0.751 |
| `oddscat:blocks=all:quantity=logit:beta=0` | 0.505 | 0.653 |
| `oddscat:blocks=all:quantity=log-odds:beta=0` | 0.507 | 0.604 |
| `oddscat:blocks=all:quantity=log-odds:beta=1` | 0.502 | 0.626 |
| `oddscat:blocks=all:quantity=probability` | 0.503 | 0.629 |
| `oddscat:blocks=all:quantity=log-odds:samples=2:copies=random` | 0.503 | 0.506 |
| `oddscat:blocks=all:quantity=log-odds:samples=8:copies=random` | 0.514 | 0.438 |
| `oddscat:blocks=all:quantity=logit:samples=4:copies=random` | 0.494 | 0.664 |
| `oddscat:blocks=all:quantity=logit:samples=2` | 0.492 | 0.744 |
| `attcat` | 0.493 | 0.607 |
| `attnlrp` | 0.495 | 0.693 |
| `attnlrp:quantity=log-odds` | 0.490 | 0.642 |
| `rollout` | 0.115 | 0.721 |

    python -m attcat.demos.shapes_page --questions 120 --seed 7 --methods oddscat:blocks=all:quantity=log-odds,...

- **Log-odds lose words that say what kind of answer is asked for.** "colour" raises all colours alike, so it hardly moves one
  against the others. The logit keeps them: 0.629 becomes 0.735. Against the runner-up alone it is worse (0.547). The logit less
  the mean of all logits (0.731) and log-odds at a temperature of 4 (0.739), both as target functions, do as well as the logit.
  The relevance on patches stays. So the logit is the default here, and [with language models](evaluation_llm.md). Why red *and
  not blue*, the word "colour" cannot say: ask for `quantity="log-odds"`, or for a contrast.
- **Copies with tokens removed harm the words** (`samples`): without half of its words there is no question any more. Patches of
  counts gain (0.24 to 0.45 inside), those of shapes lose (0.63 to 0.54). Copies that lose patches alone (the first 40 of these
  questions, eight guided ones, a script that is not kept) neither harm nor help: 0.507 inside and 0.613 among the words, where
  one pass has 0.502 and 0.600, and occlusion 0.469 and 0.750.
- **How much of softmax is differentiated** (`beta`) hardly matters for patches; for words, with the logit, all of it is best.
- `rollout` ranks words well and patches as by chance, and its map stays when the picture changes: it shows where the model looks
  whatever it sees.
"""


@dataclass(frozen=True)
class Case:
    """A question that the model answers right.

    Args:
        scene: what is seen.
        question: what is asked.
        other: another picture.
        falls: how far the log-odds of the answer fall without the picture, and without the question.
    """

    scene: Scene
    question: Question
    other: np.ndarray
    falls: tuple[float, float]


def cases(explain: attcat.Explainer, count: int, seed: int = SEED) -> Iterator[Case]:
    """So many questions, one of each picture, of every kind in turn where a picture has it."""
    pictures = scenes(seed, 10**6)
    kinds = ("colour", "shape", "count", "side")
    found = 0
    while found < count:
        scene, other = next(pictures), next(pictures)
        asked = sorted(scene.questions, key=lambda one: (kinds.index(one.kind) - found) % len(kinds))
        for question in asked[:1]:
            value = (scene.picture, prompt(question))
            explanation = explain(value)
            if explanation.label.strip() == question.answer:
                answer = explain.adapter.processor.convert_tokens_to_ids(question.answer)
                yield Case(scene, question, other.picture, falls(explain, value, answer))
                found += 1


@torch.no_grad()
def falls(explain: attcat.Explainer, value: Any, answer: int) -> tuple[float, float]:
    """How far the answer's log-odds fall when all of the picture, or all of the words, are removed."""
    adapter = explain.adapter
    encoding = adapter.head.point(adapter.encode([value]), [None])
    tokens = encoding.tokens[0]
    assert tokens.places is not None
    seen = torch.tensor([[place is not None for place in tokens.places]])
    said = ~seen & ~torch.tensor([tokens.special])
    said[0, -1] = False  # the token that the answer is predicted from

    def odds(removed: torch.Tensor) -> float:
        changed = adapter.remove(encoding, removed) if removed.any() else encoding
        logits = adapter.predict(changed)[1][0].double()
        others = torch.cat([logits[:answer], logits[answer + 1 :]])
        return float(logits[answer] - others.logsumexp(0))

    whole = odds(torch.zeros_like(seen))
    return whole - odds(seen), whole - odds(said)


def measured(explain: attcat.Explainer, case: Case) -> dict[str, float]:
    """One explanation against what is known."""
    target = explain.adapter.processor.convert_tokens_to_ids(case.question.answer)
    told = explain((case.scene.picture, prompt(case.question)), target)
    moved = explain((case.other, prompt(case.question)), target)
    picture, text = told.of_image(0), told.of_text()
    spans = [(start + BEFORE, end + BEFORE) for start, end in case.question.spans]
    kept = [at for at, special in enumerate(text.special.tolist()) if not special][:-1]
    gold = gold_tokens(text.tokens, spans)[: len(kept)]
    shares = told.shares()
    return {
        "inside": relevance_in_boxes(picture, case.question.boxes),
        "pointing": points_at(picture, case.question.boxes),
        "words": precision_at_k(text.scores[kept], gold),
        "moved": float(rank_correlation([picture.scores], [moved.of_image(0).scores])[0]),
        "picture share": shares.picture,
        "text share": shares.text,
        "picture fall": case.falls[0],
        "text fall": case.falls[1],
        "area": float(covered(picture, case.question.boxes).mean()),
        "gold words": float(gold.float().mean()),
    }


def records(
    count: int, folder: Path | None, methods: Sequence[str] = (), seed: int = SEED
) -> Mapping[str, list[dict[str, float]]]:
    """For each method what was measured of each question."""
    model, processor = shapes()
    explainers = {name: attcat.Explainer(model, processor, method=name) for name in methods or METHODS}
    asked: list[Case] | None = None
    found = {}
    for name, explain in explainers.items():
        file = None if folder is None else folder / f"{name.replace(':', '-')}-{seed}-{count}.json"
        if file is not None and file.exists():
            found[name] = json.loads(file.read_text())
            continue
        asked = asked or list(cases(attcat.Explainer(model, processor), count, seed))
        found[name] = [{"kind": case.question.kind, **measured(explain, case)} for case in asked]
        if file is not None:
            write_atomically(file, json.dumps(found[name]).encode())
        means = (f"{np.nanmean([row[column] for row in found[name]]):.3f} {column}" for column in COLUMNS)
        print(f"{name}: {', '.join(means)}", flush=True)
    return found


def page(found: Mapping[str, Sequence[Mapping[str, Any]]], count: int) -> str:
    """The whole document."""
    rows = list(next(iter(found.values())))
    chance = {"inside": np.mean([r["area"] for r in rows]), "words": np.mean([r["gold words"] for r in rows])}
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in dict.fromkeys(row["kind"] for row in rows)}
    asked = ", ".join(f"{number} of {kind}" for kind, number in kinds.items())
    lines = [
        "# Where the evidence is known: words and patches",
        "",
        "<!-- Written by attcat.demos.shapes_page. -->",
        "",
        f"{len(rows)} questions about unseen pictures that the model `embedded.shapes` answers right ({asked}).",
        "Which shapes and which words decide is known. The mean of each figure, with its 95 % bootstrap interval:",
        "",
        "| method | " + " | ".join(COLUMNS.values()) + " | shares and falls: picture | question |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for name, each in found.items():
        cells = [interval([row[column] for row in each]) for column in COLUMNS]
        agreed = [
            shares_and_falls([row[f"{part} share"] for row in each], [row[f"{part} fall"] for row in each])
            for part in ("picture", "text")
        ]
        lines.append(f"| `{name}` | " + " | ".join([*cells, *(f"{value:.2f}" for value in agreed)]) + " |")
    lines += [
        "",
        f"By chance, {chance['inside']:.3f} of the relevance would lie inside and {chance['words']:.3f} of the words be right.",
        "",
        "- **relevance inside**: share of the positive relevance of the patches inside the shapes that decide.",
        "- **pointing**: how often the patch with the highest score shows such a shape.",
        "- **precision of words**: of as many words as decide, the share of the highest-scored ones that do; without the token",
        "  that the answer is predicted from.",
        "- **other picture**: rank correlation of the map with that of another picture under the same question and for the same",
        "  answer. A map that does not move has 1.",
        "- **shares and falls**: over the questions, the rank correlation between the share of the picture (of the question) and",
        "  how far the answer's log-odds fall when all of its tokens are removed.",
        "",
        *differences(found),
        "",
        "Relevance inside, by what is asked for:",
        "",
        "| method | " + " | ".join(kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
        *(
            f"| `{name}` | "
            + " | ".join(interval([row["inside"] for row in each if row["kind"] == k]) for k in kinds)
            + " |"
            for name, each in found.items()
        ),
        "",
        "In a count a shape speaks for one number and against another, which may be why maps of counts often lie elsewhere.",
        "`tam` reads words off the patches, where this model was never trained to say any; large language models may differ.",
        "",
        f"    python -m attcat.demos.shapes_page --questions {count} --write docs/evaluation_shapes.md",
        "",
        *TRIED.splitlines(),
    ]
    return "\n".join(lines) + "\n"


def interval(values: Sequence[float]) -> str:
    """A mean with its interval."""
    found = estimate([math.nan if value is None else value for value in values], 0)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def differences(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """For each figure whether ours is first, on the same questions."""
    yield "Paired differences of ours from the best method of others:"
    yield ""
    ours = [name for name in found if name.startswith("oddscat")]
    for column in ("inside", "pointing", "words"):
        values = {name: [row[column] for row in each] for name, each in found.items()}
        best = max((name for name in values if name not in ours), key=lambda name: np.nanmean(values[name]))
        for name in ours:
            one = compare({name: values[name], best: values[best]}, 0)[name, best]
            yield f"- {COLUMNS[column]}: `{name}` {one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}] from `{best}`"


def main() -> None:
    """Measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--records", type=Path, help="folder to go on from")
    parser.add_argument("--seed", type=int, default=SEED, help="of the pictures")
    parser.add_argument("--methods", default=",".join(METHODS), help="names, with options behind colons")
    arguments = parser.parse_args()
    if arguments.records is not None:
        arguments.records.mkdir(parents=True, exist_ok=True)
    methods = [name.strip() for name in arguments.methods.split(",")]
    text = page(records(arguments.questions, arguments.records, methods, arguments.seed), arguments.questions)
    if arguments.write is None:
        print(text)
    else:
        write_atomically(arguments.write, text.encode())


if __name__ == "__main__":
    main()
