"""Train the model of `embedded.shapes`: a small LLaVA that answers questions about pictures of `shapes`.

    python -m attcat.demos.train_shapes --output shapes.safetensors

Nothing but the pictures that `shapes` draws is learnt from, so that neither data nor network is needed. It goes on where it was
interrupted if `--state FILE` is given; `--check FILE` measures the accuracy of weights on pictures that were not trained on. The
shipped weights were trained in several stretches, 5,300 steps in all: ten minutes on two cores are too short
(`docs/models.md`).

Two helps make it short. What each patch shows, and where it lies, is read off the projector's output, and where the shapes lie
that a word names is read off the word's state in the middle of the language model, by heads that are thrown away (`Tutor`). And
all the questions about one picture stand in one row behind its patches, each blind to the others, so that the patches are read
once (`Rows`).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from .embedded import PATCH, shapes_config, shapes_processor
from .shapes import CELLS, COLOURS, SHAPES, SIDE, Question, Scene, prompt, scenes

LOOKS, STEPS, PICTURES, QUESTIONS, RATE, SEED, UNSEEN = 200, 2400, 24, 6, 2e-3, 0, 1
"""Steps of the tower alone, steps on questions, pictures per step, questions per picture. `SEED` draws the pictures to learn
from, `UNSEEN` those to measure on."""
WARM, CHECKED, MIDDLE = 50, 400, (2, 3)
"""Steps in which the rate rises; after how many its accuracy is looked at; the blocks of the language model after which the tutor
looks, at words and at ends."""


class Rows:
    """For each picture a row: its patches, then several questions with their answers, each of which sees the patches and itself.

    Args:
        pictures: what is asked about.
        patches: of a picture.
        random: chooses the questions.
    """

    def __init__(self, pictures: Sequence[Scene], patches: int, random: np.random.Generator) -> None:
        vocabulary = shapes_processor().tokenizer
        asked = [_chosen(scene.questions, random) for scene in pictures]
        texts = [[f"{one.text} answer : {one.answer} {vocabulary.eos_token}" for one in each] for each in asked]
        ids = [[vocabulary(text)["input_ids"] for text in each] for each in texts]
        length = patches + max(sum(map(len, each)) for each in ids)
        self.ids = torch.zeros(len(pictures), length, dtype=torch.long)
        self.positions = torch.arange(length).repeat(len(pictures), 1)
        self.labels = torch.full((len(pictures), length), -100)
        self.wanted = torch.full((len(pictures), length, CELLS * CELLS), -1.0)
        self.order = torch.full((len(pictures), length, 2), -1.0)
        block = torch.full((len(pictures), length), -1)
        block[:, :patches] = 0
        for row, (questions, each) in enumerate(zip(asked, ids, strict=True)):
            at = patches
            for number, (question, word) in enumerate(zip(questions, each, strict=True), 1):
                end = at + len(word)
                self.ids[row, at:end], block[row, at:end] = torch.tensor(word), number
                self.positions[row, at:end] = patches + torch.arange(len(word))
                self.labels[row, end - 2 : end] = torch.tensor(word[-2:])
                self._name(row, at, question)
                at = end
        same = block[:, :, None] == block[:, None, :]
        seen = (same | (block == 0)[:, None, :]) & torch.ones(length, length).tril().bool()
        self.mask = torch.where(seen, 0.0, torch.finfo(torch.bfloat16).min)[:, None]

    def _name(self, row: int, at: int, question: Question) -> None:
        """For each word that names shapes, in which cells these lie; for two shapes, which lies further left, and further up."""
        for (start, _), shapes in zip(question.spans, question.named, strict=True):
            if shapes:
                cells = torch.zeros(CELLS * CELLS)
                for shape in shapes:
                    across, down = (int(edge * CELLS / SIDE) for edge in shape.centre)
                    cells[down * CELLS + across] = 1
                self.wanted[row, at + question.text[:start].count(" ")] = cells
        if question.kind == "side":  # both shapes are named when the question ends
            (first,), _, (second,) = question.named
            before = [a < b for a, b in zip(first.centre, second.centre, strict=True)]
            self.order[row, at + question.text.count(" ")] = torch.tensor(before).float()


def _chosen(questions: Sequence[Question], random: np.random.Generator) -> list[Question]:
    """So many questions; the kind that is learnt last is preferred."""
    weights = np.array([{"side": 3.0, "count": 1.5}.get(one.kind, 1.0) for one in questions])
    count = min(QUESTIONS, len(questions))
    return [questions[int(n)] for n in random.choice(len(questions), count, False, weights / weights.sum())]


class Tutor(nn.Module):
    """What patches show and words mean, read off their states by heads that are thrown away.

    Of each patch what is on it and where it lies, behind the projector; of each word that names shapes where these lie, and of
    the end of a question about two shapes how they lie to each other, in the middle of the language model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind, self.colour = nn.Linear(width, 1 + len(SHAPES)), nn.Linear(width, 1 + len(COLOURS))
        self.row, self.column = nn.Linear(width, SIDE // PATCH), nn.Linear(width, SIDE // PATCH)
        self.cells = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CELLS * CELLS))
        self.order = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))

    def patches(self, states: Tensor, pictures: Sequence[Scene]) -> Tensor:
        """Mean loss over the patches, the ground counting less than the shapes: what is on a patch, and where it lies."""
        side = SIDE // PATCH
        seen = [shown(scene, side) for scene in pictures]
        kinds, colours = (torch.stack(each) for each in zip(*seen, strict=True))
        places = torch.arange(side * side).expand_as(kinds)
        weight = torch.where(kinds > 0, 1.0, 0.2)
        wanted = ((self.kind, kinds), (self.colour, colours), (self.row, places // side), (self.column, places % side))
        losses = [F.cross_entropy(head(states).transpose(1, 2), gold, reduction="none") for head, gold in wanted]
        return (torch.stack(losses).sum(0) * weight).sum() / weight.sum()

    def words(self, states: Tensor, wanted: Tensor) -> Tensor:
        """Mean loss over the words that name shapes."""
        return _mean_loss(self.cells, states, wanted)

    def ends(self, states: Tensor, order: Tensor) -> Tensor:
        """Mean loss over the ends of questions about two shapes."""
        return _mean_loss(self.order, states, order)


def _mean_loss(head: nn.Module, states: Tensor, wanted: Tensor) -> Tensor:
    """Over the tokens of which something is wanted, i.e. not -1."""
    some = wanted[..., 0] >= 0
    if not some.any():
        return states.new_zeros(())
    return F.binary_cross_entropy_with_logits(head(states[some]), wanted[some])


def shown(scene: Scene, side: int) -> tuple[Tensor, Tensor]:
    """For each patch the kind and the colour of the shape on it, `[side * side]` each; 0 for the ground."""
    kinds, colours = torch.zeros(side, side, dtype=torch.long), torch.zeros(side, side, dtype=torch.long)
    step = SIDE / side
    for shape in scene.shapes:
        left, top, right, bottom = (round(edge / step) for edge in shape.box)
        kinds[top:bottom, left:right] = 1 + SHAPES.index(shape.kind)
        colours[top:bottom, left:right] = 1 + list(COLOURS).index(shape.colour)
    return kinds.flatten(), colours.flatten()


def pixels(pictures: Sequence[Scene]) -> Tensor:
    """What the processor makes of them, `[n, 3, SIDE, SIDE]`."""
    found: Tensor = shapes_processor().image_processor([one.picture for one in pictures], return_tensors="pt")[
        "pixel_values"
    ]
    return found


@dataclass(frozen=True)
class Lesson:
    """What one step learns from.

    Args:
        pictures: those that are shown.
        pixels: `[n, 3, SIDE, SIDE]`.
        rows: the questions; None while the tower alone learns.
    """

    pictures: Sequence[Scene]
    pixels: Tensor
    rows: Rows | None

    @classmethod
    def of(cls, step: int) -> Lesson:
        """Always the same for a step."""
        drawn = [scene for scene in scenes(SEED, 2 * PICTURES, step * 2 * PICTURES) if scene.questions]
        if step < LOOKS:
            return cls(drawn, pixels(drawn), None)
        # The kind that is learnt last can be asked of every third picture only: those first.
        drawn.sort(key=lambda scene: all(one.kind != "side" for one in scene.questions))
        pictures, random = drawn[:PICTURES], np.random.default_rng((SEED, step, 1))
        return cls(pictures, pixels(pictures), Rows(pictures, (SIDE // PATCH) ** 2, random))


class School:
    """A model, its tutor, and how far they are."""

    def __init__(self, model: LlavaForConditionalGeneration, steps: int) -> None:
        self.model, self.steps, self.step = model, steps, 0
        line: Any = model.config.text_config
        self.tutor = Tutor(line.hidden_size)
        self.parameters = [*model.parameters(), *self.tutor.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, RATE, betas=(0.9, 0.98), weight_decay=0.02)
        self.middle: dict[int, Tensor] = {}
        can = torch.cpu.get_capabilities()  # where it is not in the hardware, bfloat16 takes twice the time of float32
        self.half = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
        model.set_attn_implementation("eager")  # the fused one is slow backwards, for heads as narrow as these
        for block in MIDDLE:
            model.model.language_model.layers[block - 1].register_forward_hook(partial(self._keep, block))

    def _keep(self, block: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self.middle[block] = output[0] if isinstance(output, tuple) else output

    def loss(self, lesson: Lesson) -> tuple[Tensor, str]:
        """Of the present step, and what to print of it."""
        features = self.model.get_image_features(pixel_values=lesson.pixels)
        patches = torch.stack(list(getattr(features, "pooler_output", features)))
        help_, rows = self.tutor.patches(patches, lesson.pictures), lesson.rows
        if rows is None:
            return help_, f"patches {help_.item():.3f}"
        words = self.model.get_input_embeddings()(rows.ids[:, patches.shape[1] :])
        states = self.model.model.language_model(
            inputs_embeds=torch.cat([patches, words], dim=1), attention_mask=rows.mask, position_ids=rows.positions
        ).last_hidden_state
        ends = (rows.labels[:, 1:] >= 0).nonzero(as_tuple=True)
        answers = F.cross_entropy(self.model.lm_head(states[:, :-1][ends]), rows.labels[:, 1:][ends])
        named = self.tutor.words(self.middle[MIDDLE[0]], rows.wanted)
        order = self.tutor.ends(self.middle[MIDDLE[1]], rows.order)
        fade = min(1.0, 4 - 4 * (self.step - LOOKS) / self.steps)  # in the last quarter the helps fade away
        told = f"answers {answers:.3f}, patches {help_:.3f}, words {named:.3f}, order {order:.3f}"
        return answers + fade * (0.5 * help_ + 4 * named + 2 * order), told

    def rate(self) -> float:
        """Rises at the beginning of either part, and falls along a cosine in the second."""
        done = self.step - LOOKS
        if done < 0:
            return RATE * min(1.0, (self.step + 1) / WARM)
        return RATE * min(1.0, (done + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * done / self.steps))

    def learn(self, state: Path | None) -> None:
        """To the end; with a file for the state, from where it ended."""
        if state is not None and state.exists():
            saved = torch.load(state, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.tutor.load_state_dict(saved["tutor"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]
        self.model.train()
        with ThreadPoolExecutor(1) as ahead:  # draws while the backward pass runs
            lesson = ahead.submit(Lesson.of, self.step)
            while self.step < LOOKS + self.steps:
                given, lesson = lesson.result(), ahead.submit(Lesson.of, self.step + 1)
                told = self._take(given)
                if self.step % 25 == 0:
                    print(f"step {self.step}: {told}", flush=True)
                self.step += 1
                if self.step % CHECKED == 0:
                    if self.step > LOOKS:
                        print(f"step {self.step}: accuracy {accuracy(self.model, 60)}", flush=True)
                        self.model.train()
                    if state is not None:
                        self._save(state)
        self.model.eval()

    def _take(self, lesson: Lesson) -> str:
        """One step; what to print of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss, told = self.loss(lesson)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return told

    def _save(self, state: Path) -> None:
        parts: dict[str, Any] = {"model": self.model, "tutor": self.tutor, "optimizer": self.optimizer}
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": self.step}, state)


@torch.inference_mode()
def accuracy(model: LlavaForConditionalGeneration, pictures: int) -> dict[str, float]:
    """Share of the questions about so many unseen pictures that are answered right, 0 to 1: of `all`, and of each kind."""
    model.eval()
    processor = shapes_processor()
    right: dict[str, list[bool]] = {"all": []}
    rows = ((scene.picture, one) for scene in scenes(UNSEEN, pictures) for one in scene.questions)
    while part := list(islice(rows, 64)):
        batch = processor(
            images=[picture for picture, _ in part],
            text=[prompt(one) for _, one in part],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        said = processor.tokenizer.convert_ids_to_tokens(model(**batch).logits[:, -1].argmax(-1).tolist())
        for (_, one), word in zip(part, said, strict=True):
            for name in ("all", one.kind):
                right.setdefault(name, []).append(word == one.answer)
    return {name: round(float(np.mean(each)), 4) for name, each in right.items()}


def main() -> None:
    """Train, write the weights, measure what a user would get."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="safetensors file to write")
    parser.add_argument("--state", type=Path, help="where to keep what is needed to go on after an interruption")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--check", type=Path, help="measure these weights, and train none")
    parser.add_argument("--pictures", type=int, default=1000, help="to measure on")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(shapes_config())
    if arguments.check is None:
        began = time.monotonic()
        School(model, arguments.steps).learn(arguments.state)
        print(f"trained in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        weights = {name: value.detach().half() for name, value in model.state_dict().items()}
        save_file(weights, arguments.output)
        model = LlavaForConditionalGeneration(shapes_config())
    saved = load_file(arguments.check or arguments.output)
    model.load_state_dict({name: value.float() for name, value in saved.items()})
    shares = accuracy(model, arguments.pictures)
    print(f"questions about {arguments.pictures} unseen pictures that are answered right: {shares}")


if __name__ == "__main__":
    main()
