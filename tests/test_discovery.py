"""Models without an adapter: what is found out about them, and what is refused."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import pytest
import timm
import torch
import transformers
from reference import plain_attcat
from test_families import assert_same, relative
from tokenizers_small import wordpiece
from torch import nn
from zoo import _TIMM, BLOCKS, CLASSES, FAMILIES, WIDTH
from zoo_unseen import REFUSED, UNSEEN, Company, Torch, Unseen

import attcat
from attcat.model import known_adapter
from attcat.testing import snapshot


@pytest.fixture(params=UNSEEN)
def family(request: pytest.FixtureRequest) -> Unseen:
    return UNSEEN[request.param]


class Messages(logging.Handler):
    """What is logged while it is there, in a list; pytest's own is for one test only."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record.getMessage())


@cache
def found_out(name: str) -> tuple[attcat.Explainer, list[str]]:
    """An explainer of a family's model, which no test changes, and what was logged meanwhile: its experiments run once."""
    log, messages = logging.getLogger("attcat"), Messages()
    level = log.level
    log.addHandler(messages)
    log.setLevel(logging.INFO)
    try:
        return attcat.Explainer(UNSEEN[name].model(), None), messages.all
    finally:
        log.setLevel(level)
        log.removeHandler(messages)


def arguments_for(family: Unseen, explain: attcat.Explainer, rows: int = 2) -> dict[str, torch.Tensor]:
    """A batch that is padded with the model's own padding token; one row if the model takes no more."""
    batch = family.arguments(rows if explain.adapter.can_batch else 1)
    if family.text:
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, explain.adapter.pad_id or 0)
    return batch


def expected_read(family: Unseen, mask: torch.Tensor) -> torch.Tensor:
    read = torch.zeros_like(mask)
    for row, real in enumerate(mask.sum(-1).tolist()):
        where = {"first": slice(0, 1), "last": slice(real - 1, real), "all": slice(0, real)}
        read[row, where.get(family.reads, slice(family.prefix, None))] = True
    return read


def test_it_is_found_out(family: Unseen) -> None:
    explain, messages = found_out(family.name)
    known = known_adapter(explain.adapter.model)
    assert known is None or known.__name__ == "TimmAdapter"
    assert messages == [explain.describe()]
    assert f"{BLOCKS} blocks" in explain.describe()
    assert f"width {WIDTH}" in explain.describe()
    assert ("no adapter" in explain.describe()) == (known is None)
    adapter = explain.adapter
    assert len(adapter.blocks) == BLOCKS
    assert isinstance(adapter, attcat.TextAdapter) == family.text
    encoding = adapter.encode_arguments(arguments_for(family, explain))
    assert torch.equal(adapter.read(encoding), expected_read(family, encoding.mask))
    if isinstance(adapter, attcat.TextAdapter):
        assert adapter.max_length == family.positions
        assert adapter.can_batch == (family.name != "torch-layers")  # which has no mask
    else:
        assert adapter.patch_size == (8, 8)
        assert len(adapter.prefix) == family.prefix
        assert encoding.tokens[0].grid == (4, 4)


# Those of transformers whose attention it returns itself when it is asked to.
RETURNED = [n for n in UNSEEN if not n.startswith(("timm", "torch", "t5", "data2vec", "modernbert-mean"))]


@pytest.mark.parametrize("name", RETURNED)
def test_scores_equal_the_plain_reference(name: str) -> None:
    """Against transformers' own `output_attentions` and `output_hidden_states`, under plain gradients."""
    family = UNSEEN[name]
    explain = found_out(name)[0].like(method="attcat", rule="plain")
    batch = arguments_for(family, explain)
    explained = explain(batch, 1)
    for row, explanation in enumerate(explained if isinstance(explained, list) else [explained]):
        one = family.row(batch, row)
        read = explain.adapter.read(explain.adapter.encode_arguments(one))
        expected, _ = plain_attcat(explain.adapter.model, one, 1, read)
        assert relative(explanation.layers, expected) < 1e-4


@pytest.mark.parametrize("name", ["electra", "llama", "timm-cait", "torchvision-vit"])
def test_inspecting_a_model_leaves_it_as_it_was(name: str) -> None:
    model = UNSEEN[name].model()
    explain = attcat.Explainer(model, None)
    explain(arguments_for(UNSEEN[name], explain))  # transformers leaves dormant attributes behind at its first call
    model.train()
    before = snapshot(model)
    attcat.Explainer(model, None)
    assert_same(before, snapshot(model))


def test_one_shared_block_is_called_again_and_again() -> None:
    explain = attcat.Explainer(UNSEEN["albert"].model(), None)
    assert len(set(explain.adapter.blocks)) == 1
    assert "1 of them different" in explain.describe()
    assert explain({"input_ids": torch.arange(5, 12)[None]}).layers.shape == (BLOCKS, 7)


def test_alternating_shared_blocks() -> None:
    config = transformers.AlbertConfig(
        vocab_size=50,
        embedding_size=16,
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        inner_group_num=2,
    )
    explain = attcat.Explainer(transformers.AlbertForSequenceClassification(config).eval(), None)
    first, second, *rest = explain.adapter.blocks
    assert first is not second
    assert rest == [first, second] * 3


@pytest.mark.parametrize("name", REFUSED)
def test_another_kind_of_attention_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(attcat.UnsupportedModelError, match=f"(?s){message}"):
        attcat.Explainer(make().eval(), None)


def test_full_attention_is_explained_where_sparse_is_refused() -> None:
    model = REFUSED["big-bird"][0]()
    model.config.attention_type = "original_full"
    model = transformers.BigBirdForSequenceClassification(model.config).eval()
    explain = attcat.Explainer(model, None)
    assert len(explain({"input_ids": torch.arange(5, 12)[None]}).scores) == 7
    assert "(SparseAdapter), found by a forward pass" in explain.describe()


def test_other_picture_sizes_where_the_model_takes_them() -> None:
    """The grid is what the model's convolution makes of a picture, never a square root."""
    family = UNSEEN["siglip"]
    explain = attcat.Explainer(family.model(), None)
    assert explain.adapter.grid(32, 32) == (4, 4)
    with pytest.raises(attcat.ProcessorError, match="does not take pictures of 40 x 24 pixels"):
        explain({"pixel_values": torch.zeros(1, 3, 40, 24)})


def test_the_grid_of_a_wide_picture() -> None:
    explain = attcat.Explainer(timm.create_model("eva02_tiny_patch14_224", **_TIMM, img_size=(16, 40)).eval())
    assert explain.adapter.grid(16, 40) == (2, 5)
    heatmap = explain(np.zeros((16, 40, 3), np.uint8)).heatmap()
    assert heatmap.shape == (16, 40)


class Odd(Company):
    """Reads the token in the middle."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        state = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.classify(state[:, state.shape[1] // 2])


def bert() -> nn.Module:
    return FAMILIES["bert"].model().bert


def test_what_is_ambiguous_shows_the_adapter_to_write() -> None:
    model = Odd(bert()).eval()
    with pytest.raises(attcat.UnsupportedModelError, match=r"its head reads 5 .counted from 0.: neither") as error:
        attcat.Explainer(model, None)
    told = str(error.value)
    package = type(model).__module__.partition(".")[0]
    assert f'@attcat.register("{package}.Odd")' in told
    assert 'block_paths = ("encoder.encoder.layer",)' in told
    code = told.partition(":\n\n")[2]
    space: dict[str, object] = {"attcat": attcat}
    exec("\n".join(line[4:] for line in code.splitlines()), space)  # it can be pasted as it is
    try:
        adapter = attcat.Explainer(model, None).adapter
        assert type(adapter) is space["OddAdapter"]
        assert len(adapter.blocks) == BLOCKS
    finally:
        from attcat.model.registry import _registered

        del _registered[f"{package}.Odd"]


def test_a_head_that_reads_nothing_is_reported() -> None:
    model = UNSEEN["vit-msn"].model()
    nn.init.zeros_(model.classifier.weight)
    with pytest.raises(attcat.UnsupportedModelError, match="are the weights of its head zero"):
        attcat.Explainer(model, None)


class Twins(nn.Module):
    """Two towers that share their blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = bert()
        self.classify = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        ends = [self.tower(input_ids=ids).last_hidden_state[:, 0] for ids in (input_ids, input_ids.flip(-1))]
        return self.classify(torch.cat(ends, -1))


def test_two_towers_are_refused() -> None:
    with pytest.raises(attcat.UnsupportedModelError, match="several lines of blocks"):
        attcat.Explainer(Twins().eval(), None)


def test_no_class_logits() -> None:
    config = FAMILIES["bert"].make().config
    with pytest.raises(attcat.UnsupportedModelError, match="no class logits"):
        attcat.Explainer(transformers.ElectraModel(transformers.ElectraConfig(**_small(config))).eval(), None)


def _small(config: transformers.PreTrainedConfig) -> dict[str, object]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    return {name: getattr(config, name) for name in names}


def test_a_model_whose_forward_fails_says_on_what() -> None:
    class Broken(Torch):
        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor]:
            raise ValueError("no bounding boxes")

    with pytest.raises(attcat.UnsupportedModelError, match=r"failed on input_ids \(1, 11\).*no bounding boxes"):
        attcat.Explainer(Broken(), None)


def test_token_types_are_left_out_where_the_model_has_none() -> None:
    explain = attcat.Explainer(UNSEEN["modernbert"].model(), wordpiece())
    assert "token_type_ids" in wordpiece().model_input_names
    first, second = explain(["a gripping film", "the film was not boring"])
    assert [word.text for word in first.words()] == ["a", "gripping", "film"]
    assert [word.text for word in second.words()] == ["the", "film", "was", "not", "boring"]
