"""`through_tower=True`: scores of a picture's tokens, carried on to the patches of the vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_mixed_models import PICTURE, QUESTION, made
from torch import Tensor, nn

import attcat
from attcat.capture.rules import make_rule
from attcat.trace.tower import directions, through_tower

FIRST = {
    "llava": "model.vision_tower.encoder.layers.0",
    "qwen2.5-vl": "model.visual.blocks.0",
    "gemma3": "model.vision_tower.encoder.layers.0",
    "llava-next": "model.vision_tower.encoder.layers.0",
}
"""What is watched of each model, besides the experiment."""


def first_block(name: str) -> nn.Module:
    """The tower's first block; older models hold it one module deeper."""
    model = made(name)[0]
    known = dict(model.named_modules())
    return known.get(FIRST[name]) or known[FIRST[name].replace("tower.", "tower.vision_model.")]


class Watched:
    """A plain pass of the model, with the states in front of the tower's first block and of the language model's blocks."""

    def __init__(self, name: str, picture: np.ndarray) -> None:
        model, _, explainer = made(name)
        self.patches: list[Tensor] = []
        self.states: list[Tensor] = []

        def note(found: list[Tensor]) -> Any:
            def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                found.append(args[0] if args else kwargs["hidden_states"])
                found[-1].retain_grad()

            return enter

        blocks = [(first_block(name), self.patches), *((b, self.states) for b in model.get_decoder().layers)]
        hooks = [b.register_forward_pre_hook(note(found), with_kwargs=True) for b, found in blocks]
        self.logits = model(**explainer.adapter.encode([(picture, QUESTION)]).arguments).logits[0, -1]
        for hook in hooks:
            hook.remove()

    @property
    def flat(self) -> Tensor:
        return torch.cat([one.detach().flatten(0, -2) for one in self.patches])


@pytest.mark.parametrize("name", FIRST)
def test_painted_corners_move_the_patches_that_are_said_to_lie_there(name: str) -> None:
    adapter = made(name)[2].adapter
    tower = adapter.tower(adapter.encode([(PICTURE, QUESTION)]))
    plain = Watched(name, PICTURE).flat
    assert len(tower.places) == len(plain)
    for number, patches in enumerate(tower.patches):
        assert patches.grid is not None
        assert patches.view is not None
        rows, columns = patches.grid
        cells = patches.view.cells(patches.grid)
        own = [at for at, place in enumerate(tower.places) if place is not None and place[0] == number]
        whole = [int((cells == cell).sum()) for cell in range(rows * columns)]
        seen = [cell for cell in range(rows * columns) if whole[cell] == max(whole)]  # in frames with padding, not all
        for cell in {seen[0], seen[-1], *(c for c in (columns - 1, (rows - 1) * columns) if c in seen)}:
            painted = PICTURE.copy()
            area = cells == cell
            painted[area] = np.where(painted[area] > 127, 0, 255)
            change = (Watched(name, painted).flat - plain).norm(dim=-1)
            assert tower.places[own[int(change[own].argmax())]] == (number, cell)


@pytest.mark.parametrize(("name", "finer"), [("llava", 1), ("qwen2.5-vl", 2), ("gemma3", 2)])
def test_the_resolution_is_that_of_the_tower(name: str, finer: int) -> None:
    explainer = made(name)[2]
    coarse, fine = (explainer((PICTURE, QUESTION), through_tower=flag) for flag in (False, True))
    (before,), (after,) = coarse.tokens.patches, fine.tokens.patches
    assert after.grid == (finer * before.grid[0], finer * before.grid[1])
    np.testing.assert_allclose(after.view.box, before.view.box, atol=1e-6)
    assert fine.heatmap(0).shape == PICTURE.shape[:2]
    assert fine.words() == coarse.words()
    assert fine.shares().signed[1:] == pytest.approx(coarse.shares().signed[1:])
    held, rest = coarse.shares().signed[0], fine.measured["tower_rest"]
    assert fine.shares().signed[0] + rest == pytest.approx(held, abs=1e-5)
    assert fine.options["through_tower"] is True


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "gemma3"])
@pytest.mark.parametrize("method", ["cat", "input_x_gradient+libra", "rollout"])
def test_without_biases_patches_hold_what_tokens_held(name: str, method: str) -> None:
    model, _, explainer = made(name)
    biases = {n: p for n, p in model.named_parameters() if "language_model" not in n and n.endswith("bias")}
    kept = {n: p.detach().clone() for n, p in biases.items()}
    try:
        for bias in biases.values():
            bias.data.zero_()
        found = attcat.Explainer(explainer.adapter, method=method)((PICTURE, QUESTION))
        encoding = explainer.adapter.encode([(PICTURE, QUESTION)])
        seen = torch.tensor([place is not None for place in encoding.tokens[0].places or ()])
        scores = found.scores * seen
        gradient = torch.randn(len(seen), 32, generator=torch.Generator().manual_seed(0))
        tower = explainer.adapter.tower(encoding)
        for near in (None, gradient):
            carried = through_tower(explainer.adapter, encoding, tower, make_rule("libra"), scores, near)
            assert float(carried.sum()) == pytest.approx(float(scores.sum()), rel=1e-3, abs=1e-4)
    finally:
        for n, bias in biases.items():
            bias.data.copy_(kept[n])


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "gemma3"])
def test_patches_get_what_plain_autograd_gives_them(name: str) -> None:
    """The formula, written with autograd and hooks of the test alone."""
    explainer = made(name)[2]
    found = attcat.Explainer(explainer.adapter, method="cat", rule="plain")((PICTURE, QUESTION), through_tower=True)
    encoding = explainer.adapter.encode([(PICTURE, QUESTION)])
    seen = torch.tensor([place is not None for place in encoding.tokens[0].places or ()])
    one = Watched(name, PICTURE)
    gradients = [g[0] for g in torch.autograd.grad(one.logits.max(), one.states, retain_graph=True)]
    states = [state.detach()[0] for state in one.states]
    scores = sum((g * h).sum(-1) for g, h in zip(gradients, states, strict=True))
    near, first = sum(gradients), states[0]
    moved = near + ((scores - (near * first).sum(-1)) / (first**2).sum(-1))[:, None] * first
    value = (one.states[0][0][seen] * moved[seen]).sum()
    slopes = torch.autograd.grad(value, one.patches)
    expected = torch.cat([(e.detach() * g).sum(-1).flatten() for e, g in zip(one.patches, slopes, strict=True)])
    tower = explainer.adapter.tower(encoding)
    for at, place in enumerate(tower.places):
        if place is not None:
            assert found.tokens.places is not None
            where = found.tokens.places.index(place)
            assert float(found.scores[where]) == pytest.approx(float(expected[at]), rel=1e-3, abs=1e-5)


def test_directions_hold_the_scores_and_stay_close_to_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    state, gradient = (torch.randn(5, 7, generator=generator) for _ in range(2))
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])
    found = directions(state, scores, gradient)
    torch.testing.assert_close((found * state).sum(-1), scores)
    exact = directions(state, (gradient * state).sum(-1), gradient)
    torch.testing.assert_close(exact, gradient)
    for _ in range(20):  # any other vector with the same product lies farther away
        other = torch.randn(5, 7, generator=generator)
        other -= ((other * state).sum(-1) / (state**2).sum(-1))[:, None] * state
        assert ((found + other - gradient)[:4].norm(dim=-1) >= (found - gradient)[:4].norm(dim=-1) - 1e-5).all()


def test_a_picture_of_two_and_a_saved_one(tmp_path: Path) -> None:
    explainer = made("qwen2.5-vl")[2]
    found = explainer(((PICTURE, PICTURE[:, :40].copy()), QUESTION), through_tower=True)
    assert [patches.picture for patches in found.tokens.patches] == [0, 1]
    assert found.heatmap(1).shape == (48, 40)
    found.save(tmp_path / "two.json")
    again = attcat.load(tmp_path / "two.json")
    assert again.tokens == found.tokens
    assert again.measured == found.measured


def test_completeness_counts_what_lies_in_no_patch() -> None:
    explainer = attcat.Explainer(made("gemma3")[2].adapter, method="input_x_gradient+libra", completeness=True)
    coarse, fine = (explainer((PICTURE, QUESTION), through_tower=flag) for flag in (False, True))
    assert fine.completeness == pytest.approx(coarse.completeness, abs=1e-4)


def test_several_targets_and_lists() -> None:
    explainer = made("llava")[2]
    one = explainer((PICTURE, QUESTION), [40, 41], through_tower=True)
    many = explainer([(PICTURE, QUESTION), (PICTURE, "a film")], [40, 41], through_tower=True)
    assert len(one) == 2
    torch.testing.assert_close(many[0].scores, one[0].scores)


def test_it_is_refused_where_there_is_no_tower() -> None:
    with pytest.raises(attcat.OptionError, match="no vision tower in front of its first block"):
        made("vilt")[2]((PICTURE, QUESTION), through_tower=True)
    explainer = made("llava")[2]
    with pytest.raises(attcat.OptionError, match="a picture and a text in one sequence"):
        explainer("a gripping film?", through_tower=True)
    arguments = dict(explainer.adapter.encode([(PICTURE, QUESTION)]).arguments)
    with pytest.raises(attcat.OptionError, match=r"model arguments: give \(picture, text\)"):
        explainer(arguments, through_tower=True)
    with pytest.raises(attcat.InputError, match="leave out through_tower="):
        explainer((PICTURE, QUESTION), answer=[40], through_tower=True)


def test_tokens_that_do_not_depend_on_the_tower_are_an_error() -> None:
    model, _, explainer = made("llava")
    projector = next(module for name, module in model.named_modules() if name.endswith("multi_modal_projector"))
    cut = projector.register_forward_hook(lambda module, args, output: output.detach())
    try:
        with pytest.raises(attcat.CaptureError, match=r"the tokens do not depend on what .*layers\.0 is given"):
            explainer((PICTURE, QUESTION), through_tower=True)
    finally:
        cut.remove()


def test_only_the_blocks_that_are_summed_over_say_where_patches_lie() -> None:
    """OddsCAT of the first block of a causal model is gradient times input at it, with patches as with tokens."""
    explainer = made("gemma3")[2]
    first, one = (
        attcat.Explainer(explainer.adapter, method=name)((PICTURE, QUESTION), 40, through_tower=True)
        for name in ("oddscat:blocks=first", "input_x_gradient+graded:beta=0.25")
    )
    assert first.options["causal"] is True
    torch.testing.assert_close(first.scores, one.scores)
