"""The two-line call: inputs, targets, words, and one clear error for each kind of bad input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch
import transformers
from PIL import Image
from timm.data import create_transform
from tokenizers_small import byte_bpe, wordpiece
from torch import nn
from zoo import FAMILIES, SIDE

import attcat
from attcat.model import Encoding
from attcat.tokens import Tokens


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    model = FAMILIES["bert"].model()
    model.config.max_position_embeddings = 12
    model.config.id2label = {0: "negative", 1: "neutral", 2: "Positive, good"}
    return model


@pytest.fixture(scope="module")
def text(bert: nn.Module) -> attcat.Explainer:
    return attcat.Explainer(bert, wordpiece())


@pytest.fixture(scope="module")
def vision() -> attcat.Explainer:
    processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return attcat.Explainer(FAMILIES["vit"].model(), processor)


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


# -- texts -----------------------------------------------------------------------------------------------------------


def columns(texts: list[str]) -> dict[str, Any]:
    """The same texts as what tables hold them in."""
    series = pandas.Series(texts, index=[7, 3])
    return {
        "series": series,
        "categories": series.astype("category"),
        "values": series.values,
        "index": pandas.Index(texts),
        "strings": np.array(texts),
        "objects": np.array(texts, dtype=object),
        "arrow": pyarrow.array(texts),
        "chunks": pyarrow.chunked_array([texts]),
        "dataset": datasets.Dataset.from_dict({"text": texts})["text"],
    }


@pytest.mark.parametrize("kind", list(columns(["a", "b"])))
def test_a_column_is_a_list(text: attcat.Explainer, kind: str) -> None:
    texts = ["a gripping film", "boring"]
    found, expected = text(columns(texts)[kind]), text(texts)
    assert [one.source for one in found] == texts
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(found, expected, strict=True))


def test_labels_may_be_a_column_as_well(text: attcat.Explainer) -> None:
    wanted = pandas.Series(["negative", "neutral"])
    assert [one.label for one in text(pandas.Series(["a film", "boring"]), wanted)] == list(wanted)
    assert [one.target for one in text(["a film", "boring"], pandas.Series([1, 0]))] == [1, 0]


def test_a_data_frame_is_no_column(text: attcat.Explainer) -> None:
    with pytest.raises(attcat.InputError, match="cannot read a text from DataFrame"):
        text(pandas.DataFrame({"text": ["a film"]}))


def test_one_input_gives_one_explanation_and_a_list_a_list(text: attcat.Explainer) -> None:
    one = text("A gripping film!")
    assert isinstance(one, attcat.Explanation)
    assert one.tokens.labels == ("[CLS]", "a", "grip", "##ping", "film", "!", "[SEP]")
    assert one.special.tolist() == [True, False, False, False, False, False, True]
    assert one.source == "A gripping film!"
    both = text(["A gripping film!", "not"])
    assert [e.source for e in both] == ["A gripping film!", "not"]
    torch.testing.assert_close(both[0].layers, one.layers, rtol=1e-4, atol=1e-7)
    assert text([]) == []


def test_words_are_merged_by_offsets_into_the_original_string(text: attcat.Explainer) -> None:
    sentence = "The  Gripping, UNWATCHABLE film."
    explanation = text(sentence)
    words = explanation.words()
    assert [word.text for word in words] == ["The", "Gripping", ",", "UNWATCHABLE", "film", "."]
    assert all(sentence[w.start : w.end] == w.text for w in words)
    content = float(explanation.scores[~explanation.special].sum())
    assert sum(w.score for w in words) == pytest.approx(content, rel=1e-4)
    pieces = explanation.tokens.labels.index("un")
    assert words[3].score == pytest.approx(float(explanation.scores[pieces : pieces + 3].sum()), rel=1e-4)


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
@pytest.mark.parametrize("sentence", ["a gripping film 🎬👍🏽 café", " the  long\nend 日本 ", "👩‍👩‍👧 film"])
def test_byte_level_text_comes_out_as_it_was_written(name: str, sentence: str) -> None:
    model = FAMILIES[name].model()
    model.resize_token_embeddings(400)
    if name == "gpt2":
        model.config.pad_token_id = 1
    explanation = attcat.Explainer(model, byte_bpe(specials=name == "roberta"))(sentence)
    words = explanation.words()
    assert "".join(w.text for w in words) == "".join(sentence.split())
    assert [w.start for w in words] == sorted(w.start for w in words)
    assert all(sentence[w.start : w.end] == w.text for w in words)
    tokens = explanation.tokens  # white space that is no part of a word has a score of its own
    inked = {w for w, span in zip(tokens.words, tokens.spans, strict=True) if span and sentence[slice(*span)].strip()}
    written = [i for i, word in enumerate(tokens.words) if word in inked]
    assert sum(w.score for w in words) == pytest.approx(float(explanation.scores[written].sum()), rel=1e-3, abs=1e-6)


def test_a_pair_keeps_its_segments_apart(text: attcat.Explainer) -> None:
    explanation = text(("a gripping film", "not boring"))
    assert explanation.source == ("a gripping film", "not boring")
    assert [(w.text, w.segment) for w in explanation.words()] == [
        ("a", 0), ("gripping", 0), ("film", 0), ("not", 1), ("boring", 1)
    ]  # fmt: skip


def test_a_left_padding_tokenizer_gives_the_same_scores() -> None:
    model = FAMILIES["gpt2"].model()
    model.resize_token_embeddings(400)
    model.config.pad_token_id = 1
    tokenizer = byte_bpe(specials=False)
    explain = attcat.Explainer(model, tokenizer)
    expected = explain("film")
    tokenizer.padding_side = "left"
    try:
        padded = explain(["film", "a much longer film with beautiful acting"])
    finally:
        tokenizer.padding_side = "right"
    torch.testing.assert_close(padded[0].layers, expected.layers, rtol=1e-4, atol=1e-7)


def test_gpt2_without_a_padding_token_is_explained_one_by_one() -> None:
    model = FAMILIES["gpt2"].model()
    model.resize_token_embeddings(400)
    model.config.pad_token_id = None
    explain = attcat.Explainer(model, byte_bpe(specials=False))
    first, second = explain(["film", "a longer film"])
    assert len(first.tokens) < len(second.tokens)
    torch.testing.assert_close(first.layers, explain("film").layers)


@pytest.mark.parametrize("bad", ["", "  \n ", ("film", ""), ["film", ""]])
def test_empty_text(text: attcat.Explainer, bad: object) -> None:
    with pytest.raises(attcat.InputError, match="empty"):
        text(bad)


def test_text_that_is_too_long_is_never_cut_silently(text: attcat.Explainer) -> None:
    long = "film " * 20
    with pytest.raises(attcat.TooLongError, match=r"22 tokens.*at most 12.*truncation=True"):
        text(long)
    explanation = text(long, truncation=True)
    assert len(explanation.tokens) == 12
    assert explanation.dropped == 10
    assert text("film", truncation=True).dropped == 0
    assert [e.dropped for e in text([long, "film"], truncation=True)] == [10, 0]


def test_roberta_positions_are_counted_from_two() -> None:
    model = FAMILIES["roberta"].model()
    model.config.max_position_embeddings = 12
    with pytest.raises(attcat.TooLongError, match="at most 10"):
        attcat.Explainer(model)({"input_ids": torch.full((1, 11), 7)})


# -- pictures --------------------------------------------------------------------------------------------------------


def test_every_way_to_give_a_picture(vision: attcat.Explainer, photo: Image.Image, tmp_path) -> None:
    path = tmp_path / "photo.png"
    photo.save(path)
    pixels = np.array(photo)
    expected = vision(photo)
    assert expected.heatmap().shape == (40, 60)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    for same in (path, str(path), pixels, torch.from_numpy(pixels), channels_first, channels_first.float() / 255):
        assert torch.equal(vision(same).layers, expected.layers)
    assert np.array_equal(expected.source, pixels)


def test_a_timm_model_brings_its_own_transform(photo: Image.Image) -> None:
    model = FAMILIES["timm-vit"].model()
    own = attcat.Explainer(model)(photo)
    assert own.tokens.grid == (4, 4)
    given = attcat.Explainer(
        model, create_transform((3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9, interpolation="bicubic")
    )(photo)
    torch.testing.assert_close(own.layers, given.layers)


def test_model_arguments_need_no_processor(photo: Image.Image, vision: attcat.Explainer) -> None:
    pixels = vision.adapter.preprocess(photo)
    bare = attcat.Explainer(vision.adapter.model, None)
    assert torch.equal(bare({"pixel_values": pixels[None]}).layers, vision(photo).layers)
    assert bare({"pixel_values": pixels}).heatmap().shape == (SIDE, SIDE)
    assert len(bare({"pixel_values": torch.stack([pixels, pixels])})) == 2
    with pytest.raises(attcat.ProcessorError, match="needs an image processor"):
        bare(photo)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"not a picture", "not a picture"),
        ("truncated", "damaged or truncated"),
        (None, "no such file"),
    ],
)
def test_broken_files(vision: attcat.Explainer, tmp_path, photo: Image.Image, content: object, message: str) -> None:
    path = tmp_path / "x.jpg"
    if content == "truncated":
        photo.save(path)
        path.write_bytes(path.read_bytes()[:-200])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(attcat.InputError, match=message):
        vision(path)


def test_a_transform_of_another_size_is_named(photo: Image.Image) -> None:
    with pytest.raises(attcat.ProcessorError, match="48 x 48"):
        attcat.Explainer(FAMILIES["timm-vit"].model(), create_transform((3, 48, 48)))(photo)


# -- processors that do not fit --------------------------------------------------------------------------------------


def test_processors_that_do_not_fit(bert: nn.Module, photo: Image.Image) -> None:
    images = transformers.ViTImageProcessor()
    with pytest.raises(attcat.ProcessorError, match="reads text"):
        attcat.Explainer(bert, images)("film")
    with pytest.raises(attcat.ProcessorError, match="is a tokenizer"):
        attcat.Explainer(FAMILIES["vit"].model(), wordpiece())(photo)
    with pytest.raises(attcat.ProcessorError, match="needs a tokenizer"):
        attcat.Explainer(bert, None)("film")
    small = FAMILIES["bert"].model()
    small.resize_token_embeddings(6)
    with pytest.raises(attcat.ProcessorError, match="vocabulary of 6"):
        attcat.Explainer(small, wordpiece())("a film")
    with pytest.raises(attcat.ProcessorError, match="expected a float tensor"):
        attcat.Explainer(FAMILIES["timm-vit"].model(), lambda picture: picture)(photo)


def test_wrong_kind_of_input(text: attcat.Explainer, vision: attcat.Explainer, photo: Image.Image) -> None:
    with pytest.raises(attcat.InputError, match="cannot read a text from"):
        text(photo)
    with pytest.raises(attcat.InputError, match="no such file"):
        vision("a sentence")
    with pytest.raises(attcat.InputError, match="cannot read a picture from int"):
        vision(7)
    with pytest.raises(attcat.InputError, match="need 'input_ids'"):
        text({"pixel_values": torch.zeros(1, 3, 4, 4)})
    with pytest.raises(attcat.InputError, match="need float 'pixel_values'"):
        vision({"input_ids": torch.ones(1, 3, dtype=torch.long)})
    with pytest.raises(attcat.InputError, match="already normalised"):
        vision(np.random.default_rng(0).normal(size=(8, 8, 3)))


# -- targets ---------------------------------------------------------------------------------------------------------


def test_targets(text: attcat.Explainer) -> None:
    predicted = text("a film")
    assert predicted.target == predicted.predicted
    assert predicted.label == predicted.labels[predicted.target]
    assert predicted.probability == pytest.approx(float(predicted.probabilities.max()))
    by_index = text("a film", target=2)
    for name in ("Positive, good", "positive, good", "good"):
        by_name = text("a film", target=name)
        assert by_name.target == 2
        assert torch.equal(by_name.layers, by_index.layers)
    by_function = text("a film", target=lambda output: output.logits[:, 2])
    assert by_function.target is None
    assert by_function.label == "custom target"
    of_logits = text.like(quantity="logit")
    torch.testing.assert_close(by_function.layers, of_logits("a film", target=2).layers)


def test_one_target_per_input(text: attcat.Explainer) -> None:
    def first(output: object) -> torch.Tensor:
        return output.logits[:, 0]

    of_logits = text.like(quantity="logit")
    several = of_logits(["a film", "a film", "a film", "a film"], target=[0, "neutral", None, first])
    assert [e.target for e in several] == [0, 1, text("a film").target, None]
    torch.testing.assert_close(several[0].layers, several[3].layers)
    with pytest.raises(attcat.TargetError, match="2 targets for 1 inputs"):
        text(["a film"], target=[0, 1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"no class 3: the model has 0 to 2 \(negative, neutral"),
        (-1, "no class -1"),
        ("great", "no class 'great': the model has negative, neutral"),
        (True, "not bool"),
        (1.5, "not float"),
        (lambda output: output.logits, r"returned \(1, 3\), expected a tensor \[1\]"),
        (lambda output: output.logits[:, 0].detach(), "does not depend on the hidden states"),
    ],
)
def test_targets_that_do_not_exist(text: attcat.Explainer, target: object, message: str) -> None:
    with pytest.raises(attcat.AttCATError, match=message):
        text("a film", target=target)


def test_several_targets_of_one_input(text: attcat.Explainer) -> None:
    one_by_one = [text("a film", target=index) for index in range(3)]
    for several in (text("a film", target=[0, "neutral", 2]), text("a film", target="all")):
        assert [e.target for e in several] == [0, 1, 2]
        for one, other in zip(one_by_one, several, strict=True):
            assert torch.equal(one.layers, other.layers)
    order = one_by_one[0].logits.argsort(descending=True).tolist()
    assert [e.target for e in text("a film", top_k=2)] == order[:2]
    assert [e.target for e in text("a film", top_k=9)] == order
    assert [[e.target for e in row] for row in text(["a film", "a film"], top_k=1)] == [[order[0]]] * 2
    with pytest.raises(attcat.OptionError, match="top_k=0"):
        text("a film", top_k=0)
    with pytest.raises(attcat.TargetError, match="empty list"):
        text("a film", target=[])


def test_a_contrast_of_two_classes(text: attcat.Explainer) -> None:
    contrast, of_logits = text("a film", target=("good", "negative")), text.like(quantity="logit")
    expected = of_logits("a film", target=2).layers - of_logits("a film", target=0).layers
    torch.testing.assert_close(contrast.layers, expected, rtol=1e-4, atol=1e-7)
    assert contrast.label == "Positive, good rather than negative"
    for wrong in (("good", "good"), ("good",), ("good", "x")):
        with pytest.raises(attcat.TargetError, match=r"twice|names two classes|no class 'x'"):
            text("a film", target=wrong)


def test_a_list_keeps_its_order_in_length_sorted_batches(bert: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = attcat.Explainer(bert, wordpiece(), batch_size=2)
    sentences = ["film", "a gripping film, not boring", "not", "the film was unwatchable!", "a"]
    sizes = []
    encode = explain.adapter.encode
    monkeypatch.setattr(explain.adapter, "encode", lambda batch, **o: sizes.append(list(batch)) or encode(batch, **o))
    found = explain(sentences, target=[0, 1, 2, 0, 1])
    assert [e.source for e in found] == sentences
    assert [e.target for e in found] == [0, 1, 2, 0, 1]
    flat = [len(sentence) // 4 for batch in sizes for sentence in batch]
    assert flat == sorted(flat)
    assert max(len(batch) for batch in sizes) == 2
    for sentence, target, explanation in zip(sentences, [0, 1, 2, 0, 1], found, strict=True):
        torch.testing.assert_close(explanation.layers, explain(sentence, target).layers, rtol=1e-4, atol=1e-7)


def test_a_contrast_is_a_function_of_the_output(text: attcat.Explainer) -> None:
    contrast = text("a film", target=lambda output: output.logits[:, 2] - output.logits[:, 0])
    of_logits = text.like(quantity="logit")
    expected = of_logits("a film", target=2).layers - of_logits("a film", target=0).layers
    torch.testing.assert_close(contrast.layers, expected, rtol=1e-4, atol=1e-7)


# -- models and modes ------------------------------------------------------------------------------------------------


def test_a_model_without_adapter_is_named_and_the_way_out_shown() -> None:
    with pytest.raises(
        attcat.UnsupportedModelError, match=r"no adapter for torch\.Linear.*transformers\.BertPre.*#write-an-adapter"
    ):
        attcat.Explainer(nn.Linear(2, 2))


def test_a_model_without_a_classification_head() -> None:
    config = FAMILIES["bert"].model().config
    with pytest.raises(
        attcat.UnsupportedModelError, match=r"BertModel has no head.*AutoModelForSequenceClassification"
    ):
        attcat.Explainer(transformers.BertModel(config), wordpiece())("film")


@pytest.mark.parametrize(
    "options", [{"method": "x"}, {"rule": "x"}, {"hidden": "x"}, {"queries": "x"}, {"batch_size": 0}]
)
def test_options_that_do_not_exist(bert: nn.Module, options: dict) -> None:
    with pytest.raises(attcat.OptionError, match=r"no method 'x': use one of|'x'|batch_size"):
        attcat.Explainer(bert, wordpiece(), **options)


def test_inference_mode_says_why_it_cannot(text: attcat.Explainer) -> None:
    with torch.inference_mode(), pytest.raises(attcat.CaptureError, match="inference_mode"):
        text("film")


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = FAMILIES["vit"].model()
    with pytest.raises(attcat.CaptureError, match=r"made inside torch\.inference_mode"):
        attcat.Explainer(model)({"pixel_values": torch.randn(1, 3, SIDE, SIDE)})


def test_training_mode_is_explained_in_evaluation_mode(text: attcat.Explainer) -> None:
    expected = text("a film")
    text.adapter.model.train()
    try:
        assert torch.equal(text("a film").layers, expected.layers)
        assert text.adapter.model.training
    finally:
        text.adapter.model.eval()


def test_non_finite_logits() -> None:
    model = FAMILIES["bert"].model()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(attcat.InputError, match="not finite"):
        attcat.Explainer(model, wordpiece())("film")


def test_attention_that_is_not_seen_is_an_error() -> None:
    model = FAMILIES["timm-vit"].model()

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor, **options: object) -> torch.Tensor:
            return x.mean(1, keepdim=True).expand_as(x)

    model.blocks[1].attn = Mean()
    explain = attcat.Explainer(model, method="attcat")
    with pytest.raises(attcat.CaptureError, match="attention of block 1 was not seen"):
        explain({"pixel_values": torch.randn(1, 3, SIDE, SIDE)})
    assert (
        attcat.Explainer(model, method="cat")({"pixel_values": torch.randn(1, 3, SIDE, SIDE)}).scores.isfinite().all()
    )


def test_register_serves_a_users_model() -> None:
    from attcat.adapters.timm_vit import TimmVisionTransformerAdapter

    class Mine(type(FAMILIES["timm-vit"].model())):
        pass

    Mine.__module__ = "mine.models"

    @attcat.register("mine.Mine")
    class MineAdapter(TimmVisionTransformerAdapter):
        pass

    model = FAMILIES["timm-vit"].model()
    model.__class__ = Mine
    assert type(attcat.Explainer(model).adapter) is MineAdapter
    assert attcat.supported_models()["mine.Mine"].endswith("MineAdapter")
    with pytest.raises(TypeError, match="not a subclass"):
        attcat.register("mine.Mine")(nn.Linear)
    with pytest.raises(TypeError, match="top-level package"):
        attcat.register("Mine")


# -- known answers ---------------------------------------------------------------------------------------------------


def test_a_model_that_can_only_read_one_token() -> None:
    """Attention is cut except to position 3, and position 0 forgets itself: all relevance is at 3 (and the reader)."""
    model = FAMILIES["timm-vit"].model()
    explain = attcat.Explainer(model)
    pixels = {"pixel_values": torch.randn(1, 3, SIDE, SIDE)}
    model.blocks = model.blocks[:1]
    explain = attcat.Explainer(model)
    with torch.no_grad():  # q k^T is large only for key 3, which is told apart by a feature of its own
        model.blocks[0].attn.qkv.weight[:64].zero_()
        model.blocks[0].attn.qkv.bias[:32].fill_(30.0)
        model.blocks[0].attn.qkv.bias[32:64].zero_()
        direction = model.blocks[0].attn.qkv.weight[32:64]
        direction[:, 0] = 1.0
        model.pos_embed[:, :, 0] = -20.0
        model.pos_embed[:, 3, 0] = 20.0
        model.blocks[0].norm1.weight[0], model.blocks[0].norm1.bias[0] = 1.0, 0.0
    explanation = explain(pixels, 0)
    patches = explanation.scores.clone()
    patches[0] = 0
    assert patches.abs().argmax() == 3
    assert patches.abs()[3] > 1e3 * patches.abs()[[1, 2, *range(4, 17)]].max()


def test_an_explainer_from_anothers_adapter_does_not_look_at_the_model_again() -> None:
    first = attcat.Explainer(FAMILIES["bert"].model(), None)
    second = attcat.Explainer(first.adapter, method="rollout")
    assert second.adapter is first.adapter
    assert second(FAMILIES["bert"].arguments(1)).method == "rollout"


@dataclass(frozen=True)
class Named(Encoding):
    names: tuple[str, ...] = ()


def test_rows_and_a_row_alone_keep_every_field_also_of_a_subclass() -> None:
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])  # padding on both sides
    ids = torch.arange(8).reshape(2, 4)
    tokens = tuple(Tokens(("a",) * n, (False,) * n) for n in (2, 4))
    batch = Named(
        {"ids": ids, "pixels": ids[:, 0]}, mask, tokens, ("x", "y"), (1, 2), torch.tensor([2, 3]), names=("p", "q")
    )
    both = batch.rows([1, 0, 1])
    assert (type(both), both.names, both.dropped, both.sources) == (Named, ("q", "p", "q"), (2, 1, 2), ("y", "x", "y"))
    assert both.focus is not None
    assert both.focus.tolist() == [3, 2, 3]
    assert torch.equal(both.arguments["ids"], ids[[1, 0, 1]])
    one = batch.alone(0)
    assert (type(one), one.names, one.dropped, one.mask.tolist()) == (Named, ("p",), (1,), [[True, True]])
    assert one.focus is not None
    assert one.focus.tolist() == [1]  # the second of what is left
    assert one.arguments["ids"].tolist() == [[1, 2]]
    assert one.arguments["pixels"].tolist() == [0]


def test_like_with_another_method_by_its_name(text: attcat.Explainer) -> None:
    before = text.like(hidden="output", batch_size=2)
    for name, others in (("occlusion", {}), ("cat+plain", {}), ("integrated_gradients", {"steps": 3}), ("attcat", {})):
        found = before.like(method=name, **others)
        alone = attcat.Explainer(text.adapter, method=name, hidden="output", batch_size=2, **others)
        assert found.settings == alone.settings
        torch.testing.assert_close(found("a good film").scores, alone("a good film").scores)
    assert before.like(method="occlusion").settings.quantity == "logit"
    assert text.like(quantity="probability").like(method="cat").settings.quantity == "probability"
    assert not text.like(quantity="probability").settings.usual  # or a head of words would put its own in its place
    assert text.like(samples=2).settings.own["samples"] == 2
    no_rule, no_option = {"method": "cat", "rule": "no such"}, {"method": "cat", "no_such": 1}
    for wrong in ({"method": "no such"}, no_rule, {"no_such": 1}, no_option):
        with pytest.raises(attcat.OptionError):
            text.like(**wrong)
