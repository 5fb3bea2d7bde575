"""Small random models of families that no adapter knows, and of some that have to be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from zoo import _ENCODER, _TEXT, _VISION, BLOCKS, CLASSES, HEADS, SIDE, VOCABULARY, WIDTH, Family, _config, _hf, _timm

_DECODER = {**_ENCODER, **_TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_TOWERS = {
    "vision_config": {**_ENCODER, "image_size": SIDE, "patch_size": 8},
    "text_config": {**_ENCODER, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2},
    "num_labels": CLASSES,
}


@dataclass(frozen=True)
class Unseen(Family):
    """A family, and what has to be found out about it."""

    positions: int | None = 512
    """The most tokens that it takes; None for no limit."""
    incomplete: str = ""
    """Why libra cannot be complete."""


class Company(nn.Module):
    """A company's own classifier: someone's encoder, averaged over the real tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        state = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(state.dtype)
        logits: Tensor = self.classify((state * real).sum(1) / real.sum(1))
        return logits


class Torch(nn.Module):
    """A classifier out of torch's own layers; positions are a parameter, logits come in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.place = nn.Parameter(torch.zeros(64, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=True, norm_first=True, activation="gelu")
        self.encode = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        state = self.encode(self.embed(tokens) + self.place[: tokens.shape[1]])
        return (self.classify(state[:, 0]),)


def _t5() -> nn.Module:
    config = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": BLOCKS, "num_heads": HEADS}
    return Company(transformers.T5EncoderModel(transformers.T5Config(**config, vocab_size=VOCABULARY)))


def _text(name: str, kind: str, config: str, **options: object) -> Unseen | None:
    if not hasattr(transformers, f"{kind}ForSequenceClassification"):
        return None  # an older transformers
    known = {key: options.pop(key) for key in ("reads", "positions", "incomplete", "prefix") if key in options}
    return Unseen(name, _hf(f"{kind}ForSequenceClassification", _config(config, **options)), True, **known)


def _decoder(name: str, kind: str, positions: int, **options: object) -> Unseen | None:
    return _text(name, kind, f"{kind}Config", **{**_DECODER, **options}, reads="last", positions=positions)


def _vision(name: str, kind: str, config: str, reads: str = "patches", prefix: int = 1, **options: object) -> Unseen:
    made = _config(config, **{**(_VISION if "num_labels" not in options else {}), **options})
    return Unseen(name, _hf(f"{kind}ForImageClassification", made), False, prefix, reads)


def _one(name: str, make: Callable[[], nn.Module], reads: str = "patches", prefix: int = 1, **options: str) -> Unseen:
    return Unseen(name, make, False, prefix, reads, **options)


_PADS = {**_ENCODER, **_TEXT, "pad_token_id": 1, "max_position_embeddings": 514}
_DISENTANGLED = {**_ENCODER, **_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_MODERN = {
    **_ENCODER,
    **_TEXT,
    "global_attn_every_n_layers": 2,
    "local_attention": 4,
    **{f"{name}_token_id": number for number, name in enumerate(("cls", "sep", "bos", "eos"), 1)},
}

UNSEEN: dict[str, Unseen] = {
    family.name: family
    for family in (
        _text("electra", "Electra", "ElectraConfig", **_ENCODER, **_TEXT, embedding_size=16),
        _text("albert", "Albert", "AlbertConfig", **_ENCODER, **_TEXT, embedding_size=16),
        _text("deberta", "Deberta", "DebertaConfig", **_DISENTANGLED, max_relative_positions=16),
        _text("deberta-v2", "DebertaV2", "DebertaV2Config", **_DISENTANGLED, position_buckets=8),
        _text("modernbert", "ModernBert", "ModernBertConfig", **_MODERN, positions=8192),
        _text(
            "modernbert-mean",
            "ModernBert",
            "ModernBertConfig",
            **_MODERN,
            classifier_pooling="mean",
            reads="all",
            positions=8192,
        ),
        _text("xlm-roberta", "XLMRoberta", "XLMRobertaConfig", **_PADS),
        _text("camembert", "Camembert", "CamembertConfig", **_PADS),
        _text("mpnet", "MPNet", "MPNetConfig", **_PADS),
        _text("ernie", "Ernie", "ErnieConfig", **_ENCODER, **_TEXT),
        _text("megatron-bert", "MegatronBert", "MegatronBertConfig", **_ENCODER, **_TEXT),
        _text("roformer", "RoFormer", "RoFormerConfig", **_ENCODER, **_TEXT, positions=1536),
        _decoder("llama", "Llama", 2048),
        _decoder("mistral", "Mistral", 4096, max_position_embeddings=4096),
        _decoder("qwen2", "Qwen2", 32768),
        _decoder("qwen3", "Qwen3", 32768, head_dim=8),
        _decoder("gemma", "Gemma", 8192, head_dim=8),
        _decoder("gemma2", "Gemma2", 8192, head_dim=8),
        _decoder("phi3", "Phi3", 4096),
        _decoder("gpt-neox", "GPTNeoX", 2048),
        _text(
            "opt",
            "OPT",
            "OPTConfig",
            hidden_size=WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            ffn_dim=48,
            word_embed_proj_dim=WIDTH,
            **_TEXT,
            reads="last",
            positions=2048,
        ),
        _text(
            "bloom",
            "Bloom",
            "BloomConfig",
            hidden_size=WIDTH,
            n_layer=BLOCKS,
            n_head=HEADS,
            **_TEXT,
            reads="last",
            positions=None,
        ),
        Unseen("t5-encoder", _t5, True, reads="all", positions=None),
        Unseen("torch-layers", Torch, True, positions=None),
        _vision("beit", "Beit", "BeitConfig"),
        _vision("data2vec-vision", "Data2VecVision", "Data2VecVisionConfig"),
        _vision("vit-msn", "ViTMSN", "ViTMSNConfig", reads="first"),
        _vision("ijepa", "IJepa", "IJepaConfig", prefix=0),
        _vision("siglip", "Siglip", "SiglipConfig", prefix=0, **_TOWERS),
        _vision("clip", "CLIP", "CLIPConfig", **_TOWERS),
        _one("timm-beit", _timm("beit_base_patch16_224")),
        _one("timm-eva02", _timm("eva02_tiny_patch14_224")),
        _one("timm-dinov3", _timm("vit_small_patch16_dinov3"), prefix=5),
        _one("timm-cait", _timm("cait_xxs24_224"), prefix=0),
        _one("timm-vit-relpos", _timm("vit_relpos_small_patch16_224"), prefix=0),
        _one(
            "torchvision-vit",
            lambda: torchvision.models.VisionTransformer(SIDE, 8, BLOCKS, HEADS, WIDTH, 48, num_classes=CLASSES),
            reads="first",
        ),
    )
    if family is not None
}
"""Served by looking at them."""

SERVED: dict[str, Family] = {
    "timm-siglip": Family("timm-siglip", _timm("vit_base_patch16_siglip_224"), False, prefix=0, reads="patches"),
    "timm-flexivit": Family("timm-flexivit", _timm("flexivit_small"), False),
}
"""More of those that an adapter serves."""

_SWIN = {"img_size": SIDE, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
_BART = {"d_model": WIDTH, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "eos_token_id": 2, **_TEXT} | {
    f"{part}_{name}": number
    for part in ("encoder", "decoder")
    for name, number in (("layers", 2), ("attention_heads", 4))
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "big-bird": (
        _hf("BigBirdForSequenceClassification", _config("BigBirdConfig", **_ENCODER, **_TEXT, block_size=4)),
        "attention_type='block_sparse'.*attention_type=\"original_full\"",
    ),
    "mobilebert": (
        _hf(
            "MobileBertForSequenceClassification",
            _config(
                "MobileBertConfig",
                **_ENCODER,
                **_TEXT,
                embedding_size=16,
                true_hidden_size=16,
                intra_bottleneck_size=16,
            ),
        ),
        "another token at position 3 also changes what the block takes at 2, 4",
    ),
    "funnel": (
        _hf(
            "FunnelForSequenceClassification",
            _config(
                "FunnelConfig",
                vocab_size=VOCABULARY,
                d_model=WIDTH,
                n_head=HEADS,
                d_head=8,
                d_inner=48,
                block_sizes=[1, 1],
            ),
        ),
        "pyramid",
    ),
    "timm-resnet": (lambda: timm.create_model("resnet10t"), "computes no attention"),
    "timm-crossvit": (
        lambda: timm.create_model("crossvit_tiny_240", embed_dim=(8, 16), num_heads=(2, 2), depth=((1, 2, 0),)),
        "several lines",
    ),
}
"""Models that attend in another way, and what the error says about it."""

STAGES: dict[str, Callable[[], nn.Module]] = {
    "swin": _hf(
        "SwinForImageClassification",
        _config("SwinConfig", image_size=SIDE, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
    ),
    "timm-swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", **_SWIN),
    "timm-swinv2": lambda: timm.create_model("swinv2_tiny_window8_256", **_SWIN),
    "segformer": _hf(
        "SegformerForImageClassification",
        _config("SegformerConfig", depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 16], num_attention_heads=[1, 2, 2, 2]),
    ),
}
"""Models that attend within windows, or over coarser and coarser grids."""


def _hieradet() -> nn.Module:
    """SAM 2's encoder with a head."""
    model = timm.models.hieradet_sam2.HieraDet(
        embed_dim=8,
        num_heads=1,
        stages=(1, 2, 1, 1),
        global_pos_size=(4, 4),
        window_spec=(8, 4, 4, 2),
        global_att_blocks=(2,),
        num_classes=3,
    )
    model.pretrained_cfg = model.default_cfg = {"input_size": (3, 64, 64)}
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


PYRAMIDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "windows in an order of their own, a picture that is not square": (
        _hf(
            "HieraForImageClassification",
            _config(
                "HieraConfig",
                image_size=[64, 96],
                embed_dim=16,
                depths=[1, 2],
                num_heads=[1, 2],
                num_query_pool=1,
                masked_unit_attention=[True, False],
            ),
        ),
        (16, 24),
    ),
    "padded windows, heads in the axis of the batch, a picture that is not square": (
        lambda: timm.create_model(
            "samvit_base_patch16",
            img_size=(96, 128),
            embed_dim=WIDTH,
            depth=2,
            num_heads=2,
            global_attn_indexes=(1,),
            window_size=5,
            neck_chans=16,
            num_classes=3,
        ),
        (6, 8),
    ),
    "a class token, overlapping patches that leave pixels over": (
        lambda: timm.create_model(
            "pit_xs_224", base_dims=(16, 16, 16), depth=(1, 1, 1), heads=(1, 1, 1), img_size=64, num_classes=3
        ),
        (7, 7),
    ),
    "a stem of convolutions, no residual connection between the stages": (
        lambda: timm.create_model(
            "levit_128s", embed_dim=(32, 64, 64), key_dim=8, num_heads=(2, 2, 2), depth=(1, 1, 1), num_classes=3
        ),
        (14, 14),
    ),
    "windows whose queries are pooled": (lambda: _hieradet(), (16, 16)),
    "coarser keys, and windows": (
        lambda: timm.create_model(
            "twins_svt_small", embed_dims=(16, 16, 32, 32), depths=(1, 2, 1, 1), num_heads=(1, 1, 1, 1), num_classes=3
        ),
        (56, 56),
    ),
    "attention between channels": (
        lambda: timm.create_model(
            "xcit_nano_12_p8_224", img_size=SIDE, embed_dim=WIDTH, depth=2, num_heads=HEADS, num_classes=3
        ),
        (4, 4),
    ),
}
"""Models with blocks on grids of their own, of which no two arrange positions alike, and their finest grids."""
