"""The check itself: every family passes it, and what is wrong with a model or an adapter fails the check that says so."""

from __future__ import annotations

import pytest
import torch
from tasks_zoo import TASKS
from test_discovery import Torch
from tokenizers_small import byte_bpe, wordpiece
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import FAMILIES, Family
from zoo_unseen import SERVED, UNSEEN, Unseen

import attcat
from attcat.model import first_of
from attcat.model.heads import TokenHead
from attcat.testing import CHECKS, Check, changes, check_adapter, snapshot

EVERY: dict[str, Family] = {**FAMILIES, **SERVED, **UNSEEN}


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.mark.parametrize("name", EVERY)
def test_every_family_keeps_its_promises(name: str) -> None:
    family = EVERY[name]
    checks = check_adapter(family.model(), wordpiece() if family.text else None)
    assert [check.name for check in checks] == list(CHECKS)
    incomplete = isinstance(family, Unseen) and family.incomplete
    failed = [check.name for check in checks if check.passed is False]
    allowed = ["complete under libra"] if incomplete else []
    assert [name for name in failed if name not in allowed] == [], [str(check) for check in checks]
    not_asked = {check.name for check in checks if check.passed is None}
    assert ("grid times patch size is the picture" in not_asked) == family.text
    assert ("offsets rebuild the text" in not_asked) == (not family.text)
    if not isinstance(family, Unseen) or family.name != "torch-layers":  # which has no mask, so takes one at a time
        assert "the same scores alone and in a batch" not in not_asked


@pytest.mark.parametrize("name", TASKS)
def test_every_head_keeps_its_promises(name: str) -> None:
    """What is read is asked of the head, as the explainer does; with the head's own samples and with our own inputs."""
    explain = TASKS[name].explainer()
    for checks in (
        check_adapter(explain.adapter.model, explain.adapter.processor),
        check_adapter(explain.adapter, inputs=list(TASKS[name].inputs), token=list(TASKS[name].tokens)),
    ):
        assert [check for check in checks if check.passed is False] == []
        assert by_name(checks)["the head reads the tokens that it is said to"].passed


def test_a_head_that_reads_another_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["BertForTokenClassification"]
    monkeypatch.setattr(TokenHead, "read", lambda self, encoding, classes: first_of(encoding.mask))
    checks = check_adapter(task.model(), task.explainer().adapter.processor)
    assert not by_name(checks)["the head reads the tokens that it is said to"].passed


def test_the_copy_in_float64_has_the_same_adapter() -> None:
    """A user's own adapter is asked, not the registered one in its place."""
    made: list[nn.Module] = []

    model = FAMILIES["bert"].model()

    class Mine(type(attcat.Explainer(model).adapter)):  # type: ignore[misc]
        def __init__(self, model: nn.Module, processor: object = None) -> None:
            made.append(model)
            super().__init__(model, processor)

    checks = check_adapter(Mine(model), inputs=FAMILIES["bert"].arguments(2))
    assert [check for check in checks if check.passed is False] == []
    assert [next(m.parameters()).dtype for m in made] == [torch.float32, torch.float64, torch.float64][: len(made)]
    assert len(made) > 1


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.passed is False]


class Bert(nn.Module):
    """A text classifier of a known family, in which something can be broken."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits


class Wrong(attcat.TextAdapter):
    family = "wrong"
    block_paths = ("inner.bert.encoder.layer",)
    ignored_arguments = ("token_type_ids",)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch):
    """Register an adapter for `Bert` for one test, and give back a model and its checks."""
    from attcat.model import registry

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    def check(kind: type[Bert] = Bert, served: type[attcat.Adapter] = Wrong) -> list[str]:
        name = attcat.model.names_of(kind(nn.Identity()))[0]
        registry._registered.pop(name, None)  # of an earlier check in the same test
        attcat.register(name)(served)
        return failed(check_adapter(kind(FAMILIES["bert"].model()).eval(), wordpiece()))

    return check


def test_nothing_is_wrong(broken) -> None:
    assert broken() == []


def test_another_token_than_the_head_reads(broken) -> None:
    class Last(Wrong):
        def read(self, encoding: attcat.Encoding) -> Tensor:
            return attcat.model.last_of(encoding.mask)

    assert broken(served=Last) == ["the head reads the tokens that it is said to"]


def test_blocks_that_do_not_attend(broken) -> None:
    class Half(Wrong):
        @property
        def blocks(self):
            return tuple(block.attention for block in self.model.inner.bert.encoder.layer[:2])

    assert "gradients agree with finite differences" not in broken(served=Half)  # they do, for the block that is named

    class Feed(Wrong):
        @property
        def blocks(self):
            return tuple(block.intermediate for block in self.model.inner.bert.encoder.layer)

    assert "one attention call per block" in broken(served=Feed)


def test_padding_that_is_attended_to(broken) -> None:
    class Unmasked(Bert):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.inner(input_ids=input_ids).logits

    found = broken(Unmasked)
    assert {"padding receives no attention", "the same scores alone and in a batch"} <= set(found)


def test_a_part_without_gradient(broken) -> None:
    class Detached(Bert):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            logits = super().forward(input_ids, attention_mask)
            return logits + 5 * logits.detach()

    assert broken(Detached) == ["gradients agree with finite differences"]


def test_a_model_that_changes_when_it_is_run(broken) -> None:
    class Counting(Bert):
        calls = 0

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.calls = self.calls + 1  # lands on the twin
            return super().forward(input_ids, attention_mask)

    class CountingInPlace(Bert):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__(inner)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(input_ids, attention_mask)

    assert broken(Counting) == []
    assert broken(CountingInPlace) == ["the model is left as it was found"]


def test_an_operation_that_is_not_an_activation(broken) -> None:
    class Cosine(Bert):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids, attention_mask).cos()

    assert broken(Cosine) == ["complete under libra"]


def test_an_eager_model_that_scales_its_attention() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(8, 24)

        def forward(self, state: Tensor) -> Tensor:
            q, k, v = self.mix(state).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            weights = 0.5 * F.softmax(q @ k.transpose(-1, -2), dim=-1)
            return state + (weights @ v).transpose(1, 2).flatten(2)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 8)
            self.blocks = nn.ModuleList(Scaled() for _ in range(2))
            self.classify = nn.Linear(8, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            state = self.embed(input_ids)
            for block in self.blocks:
                state = block(state)
            return self.classify(state.mean(1))

    torch.manual_seed(0)
    assert failed(check_adapter(Small())) == []  # weights are seen before they are scaled


def test_a_grid_that_leaves_pixels_over() -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=4, img_size=36, num_classes=3,
        dynamic_img_pad=True, dynamic_img_size=True,
    ).eval()  # fmt: skip
    assert failed(check_adapter(model)) == ["grid times patch size is the picture"]


def test_offsets_of_bytes_and_of_another_tokenizer() -> None:
    model = UNSEEN["electra"].make()
    model.resize_token_embeddings(400)
    found = by_name(check_adapter(model.eval(), byte_bpe(), ["a gripping film ☺", "far too long"]))
    assert found["offsets rebuild the text"].passed

    class Lossy:
        """A tokenizer that loses the last token's place."""

        def __init__(self) -> None:
            self.inner = wordpiece()

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def __call__(self, *args: object, **options: object) -> object:
            batch = self.inner(*args, **options)
            if "offset_mapping" in batch:
                batch["offset_mapping"] = [
                    [(0, 0) if s == max(row) else s for s in row] for row in batch["offset_mapping"]
                ]
            return batch

    found = by_name(check_adapter(UNSEEN["electra"].model(), Lossy()))
    assert found["offsets rebuild the text"].passed is False
    assert found["offsets rebuild the text"].measured > 0


def test_your_own_inputs() -> None:
    checks = by_name(check_adapter(UNSEEN["electra"].model(), wordpiece(), "a film"))
    assert checks["the same scores alone and in a batch"].passed is None
    assert "a single input" in checks["the same scores alone and in a batch"].advice
    assert str(checks["the model is left as it was found"]).startswith(
        "passed     the model is left as it was found: 0 ("
    )


def test_an_adapter_of_another_kind_needs_inputs() -> None:
    import attcat.demos.new_architecture as demo

    with pytest.raises(attcat.InputError, match=r"DispatcherAdapter is neither.*give inputs"):
        check_adapter(demo.Dispatcher())
    torch.manual_seed(0)
    assert failed(check_adapter(demo.Dispatcher(), inputs="we saw smoke near her old house")) == []


def test_snapshots_name_what_changed() -> None:
    model = Torch().eval()
    before = snapshot(model)
    assert changes(before, snapshot(model)) == []
    model.classify.bias.data[0] += 1
    model.encode.layers[1].train()
    model.embed.note = "seen"
    hook = model.register_forward_hook(lambda *_: None)
    assert set(changes(before, snapshot(model))) >= {
        "classify.bias: tensor",
        "encode.layers.1: training",
        "embed: attributes",
        "model: hooks",
    }
    hook.remove()


class Ends(Bert):
    """It lets no gradient through a part of what it adds, as models that select queries do."""

    share = 0.01

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        return logits + self.share * logits.detach()


class EndsMore(Ends):
    share = 0.3


def test_a_gradient_that_the_model_itself_ends(broken) -> None:
    assert broken(Ends) == []
    assert "gradients agree with finite differences" in broken(EndsMore)


class Faint(Bert):
    """Its head reads every token, the first as good as not at all: in float32 no logit shows it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.inner.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.to(states) / attention_mask.sum(-1, keepdim=True)
        faint = torch.ones_like(weights).index_fill(1, torch.tensor([0]), 1e-10)
        return self.inner.classifier((states * (weights * faint)[..., None]).sum(1))


def test_a_token_that_moves_the_logit_by_less_than_rounding(broken) -> None:
    class Every(Wrong):
        def read(self, encoding: attcat.Encoding) -> Tensor:
            return encoding.mask.clone()

    assert broken(Faint, served=Every) == []
