"""Small text classifiers written by hand: what stands around their attention differs, and who adds what to what."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, HEADS, CLASSES, VOCABULARY = 32, 4, 3, 50


class Attend(nn.Module):
    """Attention alone, written out: no sum with its input."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, state: Tensor) -> Tensor:
        q, k, v = self.project(self.norm(state)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Feed(nn.Module):
    """A feed-forward network alone."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.net = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, state: Tensor) -> Tensor:
        return self.net(self.norm(state))


class Loop(nn.Module):
    """`x = attend(x) + x; x = feed(x) + x`, as many write it by hand; `view` makes the embeddings a view of another tensor."""

    def __init__(self, view: bool = False) -> None:
        super().__init__()
        self.view = view
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.ModuleList([Attend(), Feed()]) for _ in range(3))
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.embed(input_ids)
        if self.view:
            state = state.transpose(0, 1).contiguous().transpose(0, 1)
        for attend, feed in self.layers:
            state = attend(state) + state
            state = feed(state) + state
        return self.classify(state.mean(1))


class NormOutside(nn.Module):
    """The sum and the norm stand outside of the attention, which never sees the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.attends = nn.ModuleList(Attend(norm=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.embed(input_ids)
        for attend, norm in zip(self.attends, self.norms, strict=True):
            state = state + attend(norm(state))
        return self.classify(state.mean(1))


def made(kind: type[nn.Module], *args: object, **options: object) -> nn.Module:
    """A model with fixed random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(*args, **options).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model
