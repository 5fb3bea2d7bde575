"""Transformers as people write them by hand, each in another way: small, random, of no library."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import CLASSES, HEADS, VOCABULARY, WIDTH

LONG = 16
"""Rows of the tables of positions."""


# -- attention, in every spelling ------------------------------------------------------------------------------------


class Fused(nn.Module):
    """One projection for queries, keys and values, and torch's fused attention."""

    def __init__(self, causal: bool = False, heads: int = HEADS) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.causal, self.heads = causal, heads

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, `[B, H, T, d]`."""
        batch, length, _ = x.shape
        return self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(*self.parts(x)).transpose(1, 2).flatten(2))


class Einsum(Fused):
    """Written out with einsum."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        products = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
        return torch.einsum("bhqk,bhkd->bhqd", products.softmax(-1), v)


class Masked(Fused):
    """nanoGPT's: a triangle in a buffer, minus infinity where the future is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tril(torch.ones(LONG, LONG)).view(1, 1, LONG, LONG))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :length, :length] == 0, float("-inf"))
        return F.softmax(att, dim=-1) @ v


class Flat(Fused):
    """Batch and heads in one axis, `[B * H, T, T]`, as bmm wants them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch = q.shape[0]
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1]), dim=2)
        return torch.bmm(weights, v).unflatten(0, (batch, -1))


class HeadsFirst(Fused):
    """The same with heads outside of the batch, `[H * B, T, T]`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads = q.shape[:2]
        q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q, k, v))
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1]), dim=2)
        return torch.bmm(weights, v).view(heads, batch, *v.shape[1:]).transpose(0, 1)


class Single(nn.Module):
    """A single head, `[B, T, T]`, with layers of its own for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        products = self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5
        return self.softmax(products) @ self.value(x)


class OwnHeads(nn.Module):
    """A module for each head, `[B, T, T]` each, joined: Karpathy's lecture."""

    def __init__(self) -> None:
        super().__init__()

        class One(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.key, self.query, self.value = (nn.Linear(WIDTH, WIDTH // HEADS, bias=False) for _ in range(3))

            def forward(self, x: Tensor) -> Tensor:
                wei = self.query(x) @ self.key(x).transpose(-2, -1) * (WIDTH // HEADS) ** -0.5
                wei = wei.masked_fill(torch.tril(torch.ones_like(wei)) == 0, float("-inf"))
                return F.softmax(wei, dim=-1) @ self.value(x)

        self.heads = nn.ModuleList([One() for _ in range(HEADS)])
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class Torch(nn.Module):
    """torch's own layer, called as its documentation does."""

    def __init__(self, batch_first: bool = True, weights: bool = True) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.options = {} if weights else {"need_weights": False}

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, **self.options)[0]


class Rotary(Fused):
    """Positions as rotations of queries and keys."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        half = q.shape[-1] // 2
        angle = torch.arange(q.shape[2])[:, None] / 100 ** (torch.arange(half) / half)

        def turned(x: Tensor) -> Tensor:
            a, b = x.chunk(2, -1)
            return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

        return super().attend(turned(q), turned(k), v)


class Distances(Fused):
    """A learned bias for each distance, and each head."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Embedding(2 * LONG, HEADS)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        places = torch.arange(q.shape[2])
        bias = self.bias(places[:, None] - places + LONG).permute(2, 0, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class Grouped(nn.Module):
    """Heads that share keys and values, repeated for each."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Linear(WIDTH, n, bias=False) for n in (WIDTH, WIDTH // 2, WIDTH // 2))
        self.wo = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        k, v = (y.repeat_interleave(2, 1) for y in (k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        scores = scores + torch.full(scores.shape[-2:], float("-inf")).triu(1)
        return self.wo((F.softmax(scores.float(), dim=-1).type_as(q) @ v).transpose(1, 2).flatten(2))


class Sinks(Fused):
    """A number for each head to which attention may go instead of to a token."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.zeros(HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        products = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        products = products.masked_fill(torch.ones_like(products).tril() == 0, float("-inf"))
        sinks = self.sinks.view(1, -1, 1, 1).expand(*products.shape[:-1], 1)
        return torch.cat([products, sinks], -1).softmax(-1)[..., :-1] @ v


class ByHand(Fused):
    """Softmax out of exponentials: nothing that can be seen."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        powers = (q @ k.transpose(-2, -1) / 10).exp()
        return powers / powers.sum(-1, keepdim=True) @ v


class Kernel(Fused):
    """Linear attention: there is no matrix."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(2)[..., None])


class Local(Fused):
    """Windows of four tokens."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[2]
        q, k, v = (F.pad(x, (0, 0, 0, -length % 4)).unflatten(2, (-1, 4)) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).flatten(2, 3)[:, :, :length]


# -- blocks ----------------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """Written out, as in Llama's first code."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Gated(nn.Module):
    """silu(w1 x) * w3 x."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3, self.w2 = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def dense(activation: type[nn.Module] = nn.GELU) -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(WIDTH, 48), activation(), nn.Linear(48, WIDTH))


class Pre(nn.Module):
    """Norms in front."""

    def __init__(self, attention: nn.Module, norm: Callable[[], nn.Module] | None = None, ff: Callable = dense) -> None:
        super().__init__()
        make = norm or (lambda: nn.LayerNorm(WIDTH))
        self.attention, self.norm1, self.norm2, self.ff = attention, make(), make(), ff()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.ff(self.norm2(x))


class Post(Pre):
    """Norms behind."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.ff(x))


class Parallel(Pre):
    """Attention and the layers beside each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm1(x)) + self.ff(self.norm2(x))


class InPlace(Pre):
    """Biases that are added in place, and numbers kept within bounds."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.norm1(x))
        y.add_(self.bias)
        x = x + y.clamp(-0.5, 0.5)
        return x + self.ff(self.norm2(x))


class NoFeedForward(Pre):
    """Attention alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm1(x))


def many(make: Callable[[], nn.Module], count: int = 2) -> nn.ModuleList:
    return nn.ModuleList([make() for _ in range(count)])


# -- models ----------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Word and position embeddings, blocks, a norm, and a head that the classes below make in their own way."""

    outputs = CLASSES

    def __init__(self, block: Callable[[], nn.Module] = lambda: Pre(Fused())) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONG, WIDTH)
        self.build(block)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, self.outputs)

    def build(self, block: Callable[[], nn.Module]) -> None:
        self.blocks = many(block)

    def embed(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))

    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def read(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0])

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.norm(self.through(self.embed(ids))))


class Mean(Model):
    def read(self, x: Tensor) -> Tensor:
        return self.head(x.mean(1))


class Maximum(Model):
    def read(self, x: Tensor) -> Tensor:
        return self.head(x.amax(1))


class Last(Model):
    def read(self, x: Tensor) -> Tensor:
        return self.head(x[:, -1])


class Second(Model):
    """Reads the second token."""

    def read(self, x: Tensor) -> Tensor:
        return self.head(x[:, 1])


class FirstAndLast(Model):
    """Adds up both ends."""

    def read(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0] + x[:, -1])


class Flattened(Model):
    """Reads all tokens at once, of texts of one length."""

    def __init__(self, block: Callable[[], nn.Module] = lambda: Pre(Fused())) -> None:
        super().__init__(block)
        self.head = nn.Linear(LONG * WIDTH, CLASSES)

    def read(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Pooled(Model):
    """A learned query looks over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.pool = (
            nn.Parameter(torch.zeros(1, 1, WIDTH)),
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
        )

    def read(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.query.expand(len(x), -1, -1), x, x)[0][:, 0])


class Weighted(Model):
    """A score for each token, and the mean with softmax of it."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def read(self, x: Tensor) -> Tensor:
        return self.head((self.score(x).softmax(1) * x).sum(1))


class OwnClassToken(Model):
    """A class token of its own before the text."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def embed(self, ids: Tensor) -> Tensor:
        return torch.cat([self.cls.expand(len(ids), -1, -1), super().embed(ids)], 1)


class OwnLastToken(OwnClassToken, Last):
    """The same behind the text."""

    def embed(self, ids: Tensor) -> Tensor:
        return torch.cat([Model.embed(self, ids), self.cls.expand(len(ids), -1, -1)], 1)


class Attributes(Mean):
    """Blocks that are attributes, in no list."""

    def build(self, block: Callable[[], nn.Module]) -> None:
        self.block1, self.block2, self.block3 = block(), block(), block()

    def through(self, x: Tensor) -> Tensor:
        return self.block3(self.block2(self.block1(x)))


class OneBlock(Mean):
    """A single one."""

    def build(self, block: Callable[[], nn.Module]) -> None:
        self.block = block()

    def through(self, x: Tensor) -> Tensor:
        return self.block(x)


class Different(Attributes):
    """The first one is of another kind than the others."""

    def build(self, block: Callable[[], nn.Module]) -> None:
        self.first, self.others = Post(Single()), many(block)

    def through(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.others:
            x = block(x)
        return x


class Shared(Mean):
    """One block, again and again."""

    def build(self, block: Callable[[], nn.Module]) -> None:
        self.block = block()

    def through(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.block(x)
        return x


class Pairs(Mean):
    """vit-pytorch's loop: lists of an attention and its layers, the sums outside."""

    def build(self, block: Callable[[], nn.Module]) -> None:
        def normed(inner: nn.Module) -> nn.Module:
            return nn.Sequential(nn.LayerNorm(WIDTH), inner)

        self.layers = nn.ModuleList([nn.ModuleList([normed(Fused()), normed(dense())]) for _ in range(2)])

    def through(self, x: Tensor) -> Tensor:
        for attention, ff in self.layers:
            x = attention(x) + x
            x = ff(x) + x
        return x


class PositionsFirst(Model):
    """`[T, B, D]` throughout, as torch's layers have it by default."""

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids).transpose(0, 1)

    def read(self, x: Tensor) -> Tensor:
        return self.head(x.mean(0))


class PositionsLast(Model):
    """`[B, D, T]` throughout, as for convolutions of one pixel; blocks return it in a tuple in a dictionary."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Pre(Fused())

        def forward(self, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
            return {"state": (x.mean(2), self.block(x.transpose(1, 2)).transpose(1, 2))}

    def __init__(self) -> None:
        super().__init__(PositionsLast.Block)

    def embed(self, ids: Tensor) -> Tensor:
        return super().embed(ids).transpose(1, 2)

    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)["state"][1]
        return x

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.through(self.embed(ids)).mean(2))


class Encoder(Model):
    """nn.TransformerEncoder, with the mask of padding that its own documentation names."""

    def __init__(self, batch_first: bool = True, **options: object) -> None:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=batch_first, **options)
        super().__init__(lambda: nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
        self.batch_first = batch_first

    def build(self, block: Callable[[], nn.Module]) -> None:
        self.encoder = block()

    def forward(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        x = self.embed(src)
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, src_key_padding_mask=src_key_padding_mask)
        return self.head((x if self.batch_first else x.transpose(0, 1)).mean(1))


class WithMask(Model):
    """A company's own, with transformers' names; `attention_mask` keeps padding out."""

    class Block(Pre):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            q, k, v = self.attention.parts(self.norm1(x))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
            x = x + self.attention.out(y.transpose(1, 2).flatten(2))
            return x + self.ff(self.norm2(x))

    def __init__(self) -> None:
        super().__init__(lambda: WithMask.Block(Fused()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, attention_mask)
        real = attention_mask[..., None].to(x.dtype)
        return {"logits": self.head((self.norm(x) * real).sum(1) / real.sum(1))}


class Sequence(nn.Sequential):
    """Nothing but nn.Sequential."""

    def __init__(self) -> None:
        class Embed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.words = nn.Embedding(VOCABULARY, WIDTH)
                self.register_buffer("places", torch.randn(LONG, WIDTH))

            def forward(self, ids: Tensor) -> Tensor:
                return self.words(ids) * math.sqrt(WIDTH) + self.places[: ids.shape[1]]

        class Pick(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x[:, 0]

        super().__init__(Embed(), *many(lambda: Post(Einsum())), Pick(), nn.Linear(WIDTH, CLASSES))


class Tagger(Model):
    def read(self, x: Tensor) -> Tensor:
        return self.head(x)


class Tied(Model):
    """A masked language model, whose head is the table of its words."""

    def read(self, x: Tensor) -> Tensor:
        return x @ self.tokens.weight.T


class Regression(Model):
    outputs = 1

    def read(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0]).squeeze(-1)


class GPT(nn.Module):
    """nanoGPT: blocks in a dictionary of modules, logits of the last position alone, a loss that is not asked for."""

    def __init__(self, attention: Callable[[], nn.Module] = lambda: Fused(causal=True)) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCABULARY, WIDTH),
                "wpe": nn.Embedding(LONG, WIDTH),
                "drop": nn.Dropout(0.1),
                "h": many(lambda: Pre(attention())),
                "ln_f": nn.LayerNorm(WIDTH),
            }
        )
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        pos = torch.arange(0, idx.shape[1], dtype=torch.long, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(pos))
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is not None:
            logits = self.lm_head(x)
            return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return self.lm_head(x[:, [-1], :]), None


class Lecture(Model):
    """Karpathy's lecture: logits of every position, with a loss that is None."""

    outputs = VOCABULARY

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, None]:
        return self.head(self.norm(self.through(self.embed(idx)))), None


class Llama(Lecture):
    def __init__(self) -> None:
        super().__init__(lambda: Pre(Grouped(), RMSNorm, Gated))
        self.norm = RMSNorm()


class Recurrent(Mean):
    """An LSTM in front."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def embed(self, ids: Tensor) -> Tensor:
        return self.lstm(super().embed(ids))[0]


class Convolved(Mean):
    """A convolution over neighbouring tokens in front."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def embed(self, ids: Tensor) -> Tensor:
        return self.conv(super().embed(ids).transpose(1, 2)).transpose(1, 2)


class EveryLayer(Mean):
    """Each block is given the words once more, projected: a way past the first block."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(WIDTH, WIDTH)

    def through(self, x: Tensor) -> Tensor:
        words = self.again(x * x)
        for block in self.blocks:
            x = block(x) + words
        return x


class ViT(nn.Module):
    """Patches by a convolution, a class token."""

    def __init__(self, attention: Callable[[], nn.Module] = Fused) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 56, 56)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.blocks = nn.Sequential(*many(lambda: Pre(attention())))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, img: Tensor) -> Tensor:
        x = self.patch(img).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


@dataclass(frozen=True)
class Written:
    """How to make a model, and which tokens its head reads; whether it attends over all of them, so that there are weights; and
    a piece of the reason, if it has to be refused."""

    make: Callable[[], nn.Module]
    reads: str = "all"
    refused: str = ""
    weights: bool = True


WRITTEN: dict[str, Written] = {
    "pre-norm": Written(Model, "first"),
    "post-norm": Written(lambda: Model(lambda: Post(Fused())), "first"),
    "parallel": Written(lambda: Mean(lambda: Parallel(Fused()))),
    "attention only": Written(lambda: Mean(lambda: NoFeedForward(Fused()))),
    "einsum": Written(lambda: Mean(lambda: Pre(Einsum()))),
    "flat bmm": Written(lambda: Mean(lambda: Pre(Flat()))),
    "heads first": Written(lambda: Mean(lambda: Pre(HeadsFirst()))),
    "single head": Written(lambda: Mean(lambda: Pre(Single()))),
    "torch attention": Written(lambda: Mean(lambda: Pre(Torch()))),
    "torch attention without weights": Written(lambda: Mean(lambda: Post(Torch(weights=False)))),
    "torch attention, positions first": Written(lambda: PositionsFirst(lambda: Pre(Torch(batch_first=False)))),
    "positions last": Written(PositionsLast),
    "torch encoder": Written(Encoder),
    "torch encoder, pre-norm": Written(lambda: Encoder(norm_first=True, activation="gelu")),
    "torch encoder, positions first": Written(lambda: Encoder(batch_first=False)),
    "rotary": Written(lambda: Mean(lambda: Pre(Rotary()))),
    "sinks": Written(lambda: Mean(lambda: Pre(Sinks()))),
    "in place": Written(lambda: Mean(lambda: InPlace(Fused()))),
    "relative bias": Written(lambda: Mean(lambda: Pre(Distances()))),
    "max pooling": Written(Maximum),
    "last token": Written(lambda: Last(lambda: Pre(Masked())), "last"),
    "second token": Written(Second, "at 1"),
    "first and last token": Written(FirstAndLast, "at 0, -1"),
    "flattened": Written(Flattened),
    "attention pool": Written(Pooled),
    "weighted mean": Written(Weighted),
    "own class token": Written(OwnClassToken, "first"),
    "own token behind": Written(OwnLastToken, "last"),
    "attributes": Written(Attributes),
    "one block": Written(OneBlock),
    "another first block": Written(Different),
    "shared block": Written(Shared),
    "pairs": Written(Pairs),
    "mask and dictionary": Written(WithMask),
    "sequential": Written(Sequence, "first"),
    "tagger": Written(Tagger, "focus"),
    "tied": Written(Tied, "focus"),
    "regression": Written(Regression, "first"),
    "nanogpt": Written(GPT, "focus"),
    "nanogpt, masked": Written(lambda: GPT(Masked), "focus"),
    "lecture": Written(lambda: Lecture(lambda: Pre(OwnHeads())), "focus"),
    "llama": Written(Llama, "focus"),
    "exponentials": Written(lambda: Mean(lambda: Pre(ByHand())), weights=False),
    "linear attention": Written(lambda: Mean(lambda: Pre(Kernel())), weights=False),
    "windows": Written(lambda: Mean(lambda: Pre(Local())), weights=False),
    "words again for every layer": Written(EveryLayer, refused="does not come through what its first block"),
    "lstm in front": Written(Recurrent, refused="tokens are mixed"),
    "convolution in front": Written(Convolved, refused="tokens are mixed"),
}
"""Text models."""

PICTURES: dict[str, Written] = {
    "vit": Written(ViT, "first"),
    "vit, torch attention": Written(lambda: ViT(Torch), "first"),
    "vit, flat bmm": Written(lambda: ViT(Flat), "first"),
}
"""The same for pictures."""


def made(written: Written, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, with parameters that were drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = written.make().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model
