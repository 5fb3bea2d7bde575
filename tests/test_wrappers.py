"""What people put around a model makes no difference to its explanation, and is left as it is."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator

import pytest
import torch
import transformers
from test_families import assert_same
from tokenizers_small import wordpiece
from torch import nn
from zoo import FAMILIES
from zoo_unseen import UNSEEN

import attcat
from attcat.testing import check_adapter, snapshot

TEXT = FAMILIES["bert"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Some parameters are on the meta device"),
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning"),
]


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def checkpointed(model: nn.Module) -> nn.Module:
    model.gradient_checkpointing_enable()
    return model.train()


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def compiled_blocks(model: nn.Module) -> nn.Module:
    layers = model.bert.encoder.layer
    layers[0].compile()
    layers[1] = torch.compile(layers[1])
    return model


def offloaded(where: str) -> Callable[[nn.Module], nn.Module]:
    def offload(model: nn.Module) -> nn.Module:
        accelerate = pytest.importorskip("accelerate")
        if where == "disk":
            return accelerate.disk_offload(model, tempfile.mkdtemp(), execution_device=torch.device("cpu"))
        if where == "cpu":
            return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)

    return offload


def low_rank(merged: bool) -> Callable[[nn.Module], nn.Module]:
    def adapt(model: nn.Module) -> nn.Module:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=True)
        adapted = peft.get_peft_model(model, config).eval()
        return adapted.merge_and_unload() if merged else adapted

    return adapt


def distributed(model: nn.Module) -> nn.Module:
    """Wrapped as in training on several machines, of which this process is all there is."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "data parallel": nn.DataParallel,
    "distributed": distributed,
    "compiled": torch.compile,
    "compiled in place": compiled_in_place,
    "compiled blocks": compiled_blocks,
    "frozen": frozen,
    "gradient checkpointing": checkpointed,
    "low-rank adapters": low_rank(False),
    "low-rank adapters, merged": low_rank(True),
    "device map": offloaded("map"),
    "offloaded to memory": offloaded("cpu"),
    "offloaded to disk": offloaded("disk"),
}


@pytest.fixture(autouse=True)
def no_process_group_is_left() -> Iterator[None]:
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_same_scores_inside_a_wrapper(name: str) -> None:
    batch = TEXT.arguments(2)
    expected = attcat.Explainer(TEXT.model(), None, completeness=True)(batch)
    model = WRAPPERS[name](TEXT.model())
    explain = attcat.Explainer(model, None, completeness=True)
    explain(batch)  # warm up
    before = snapshot(model)
    for found, wanted in zip(explain(batch), expected, strict=True):
        torch.testing.assert_close(found.layers, wanted.layers, rtol=1e-4, atol=1e-6)
        assert found.completeness == pytest.approx(wanted.completeness, abs=1e-5)
    assert_same(before, snapshot(model))


def test_low_rank_adapters_count() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value", "dense"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(TEXT.model(), config).eval()
    apart = attcat.Explainer(model, None, method="input_x_gradient", rule="libra", completeness=True)(TEXT.arguments(2))
    plain = attcat.Explainer(TEXT.model(), None)(TEXT.arguments(2))
    assert all(abs(e.completeness) < 1e-4 for e in apart)
    together = attcat.Explainer(
        copy.deepcopy(model).merge_and_unload(), None, method="input_x_gradient", rule="libra"
    )(TEXT.arguments(2))  # fmt: skip
    for one, other, without in zip(apart, together, plain, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(one.logits, without.logits, atol=1e-3)


def test_learned_prompts_are_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    model = peft.get_peft_model(TEXT.model(), config)
    with pytest.raises(attcat.UnsupportedModelError, match="learned tokens before the text"):
        attcat.Explainer(model, wordpiece())


@pytest.mark.parametrize("name", ["timm-vit", "timm-eva02"])
def test_checkpoints_of_models_that_use_them_in_evaluation_too(name: str) -> None:
    family = {**FAMILIES, **UNSEEN}[name]
    model, batch = family.model(), family.arguments(2)
    expected = attcat.Explainer(model)(batch)
    model.set_grad_checkpointing(True)
    for found, wanted in zip(attcat.Explainer(model)(batch), expected, strict=True):
        assert torch.equal(found.layers, wanted.layers)
    assert model.grad_checkpointing is True


@pytest.mark.filterwarnings("ignore")
def test_quantised_linear_layers() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model, batch = TEXT.model(), TEXT.arguments(2)
    expected = attcat.Explainer(TEXT.model(), None)(batch)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert type(model.bert.encoder.layer[0].output.dense.weight).__module__.startswith("torchao")
    for found, wanted in zip(attcat.Explainer(model, None, completeness=True)(batch), expected, strict=True):
        assert torch.corrcoef(torch.stack([found.scores, wanted.scores]))[0, 1] > 0.99
    checks = {check.name: check.passed for check in check_adapter(model)}
    assert False not in checks.values(), checks


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_a_pipeline_brings_model_and_processor(task: str) -> None:
    if task.startswith("text"):
        model, processor, given = TEXT.model(), {"tokenizer": wordpiece()}, "a gripping film"
    else:
        model, given = FAMILIES["vit"].model(), torch.zeros(40, 40, 3, dtype=torch.uint8).numpy()
        processor = {"image_processor": transformers.ViTImageProcessor(size={"height": 32, "width": 32})}
    pipeline = transformers.pipeline(task, model=model, **processor)
    explain = attcat.Explainer(pipeline)
    assert explain.adapter.model is model
    assert torch.equal(explain(given).scores, attcat.Explainer(model, *processor.values())(given).scores)


@pytest.mark.filterwarnings("ignore")
def test_a_cross_encoder_explains_pairs(tmp_path) -> None:
    library = pytest.importorskip("sentence_transformers")
    config = TEXT.make().config
    config.num_labels = 1
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    encoder = library.CrossEncoder(str(tmp_path), device="cpu")
    explanation = attcat.Explainer(encoder)(("a gripping film", "the film was boring"))
    expected = encoder.predict([("a gripping film", "the film was boring")], activation_fn=nn.Identity())
    assert float(explanation.logits[0]) == pytest.approx(float(expected[0]), rel=1e-4)
    assert {word.segment for word in explanation.words()} == {0, 1}


@pytest.mark.parametrize("given", ["bert-base-uncased", None, object()])
def test_what_holds_no_model_is_reported(given: object) -> None:
    with pytest.raises(attcat.UnsupportedModelError, match="expected a torch model or a pipeline"):
        attcat.Explainer(given)
