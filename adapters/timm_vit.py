"""timm's VisionTransformer: ViT, DeiT, distilled DeiT, DeiT-3, DINOv2 with and without registers."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from attcat.errors import ProcessorError, UnsupportedModelError
from attcat.model import Encoding, VisionAdapter


class TimmVisionTransformerAdapter(VisionAdapter):
    family = "ViT, DeiT, DeiT-3, DINOv2 (timm)"
    block_paths = ("blocks",)
    causal = False

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor if processor is not None else evaluation_transform(model))

    def call(self, encoding: Encoding) -> Any:
        """timm's models take only the pixels."""
        check_size(self.model, encoding)
        return self.model(encoding.arguments["pixel_values"])

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of what a token stands for; behind a stem of convolutions more than a patch of its features."""
        rows, columns = self.model.patch_embed.feat_ratio(as_scalar=False)  # type: ignore[union-attr, operator, misc]
        return int(rows), int(columns)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns; the model may pad the input to whole patches."""
        rows, columns = self.model.patch_embed.dynamic_feat_size((height, width))  # type: ignore[union-attr, operator, misc]
        return int(rows), int(columns)

    @cached_property
    def prefix(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those class, distillation and register tokens that the model has."""
        model: Any = self.model
        names = ["[CLS]"] if model.cls_token is not None else []
        names += ["[DIST]"] if getattr(model, "dist_token", None) is not None else []
        names += [f"[REG{index + 1}]" for index in range(model.num_reg_tokens)]
        if len(names) != model.num_prefix_tokens:
            raise UnsupportedModelError(
                f"{type(model).__name__} has {model.num_prefix_tokens} prefix tokens, of which {len(names)} are known: {names}"
            )
        return tuple(names)

    def read(self, encoding: Encoding) -> Tensor:
        """What timm pools: the class token (and the distillation token), or the patches."""
        model: Any = self.model
        read = torch.zeros_like(encoding.mask)
        if model.global_pool == "token":
            read[:, : 2 if hasattr(model, "head_dist") else 1] = True
        elif model.global_pool in ("avg", "avgmax", "max", "map"):
            read[:, 0 if model.pool_include_prefix else model.num_prefix_tokens :] = True
        else:
            raise UnsupportedModelError(f"unknown pooling global_pool={model.global_pool!r}")
        return read

    @cached_property
    def labels(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Names from the model's configuration, or of the ImageNet classes that its head was trained on."""
        return class_names(self.model)


def class_names(model: Any) -> tuple[str, ...] | None:
    """The names that a timm model carries, or those of the ImageNet classes that its head was trained on."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if names:
        return tuple(names)
    subset = infer_imagenet_subset(model) if getattr(model, "pretrained_cfg", None) else None
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


def check_size(model: Any, encoding: Encoding) -> None:
    """Refuse pictures of a size other than the model was made for, and say how to make it for others."""
    height, width = encoding.arguments["pixel_values"].shape[-2:]
    embed = getattr(model, "patch_embed", None)
    native = getattr(embed, "img_size", None)
    if native is None or (height, width) == tuple(native) or not getattr(embed, "strict_img_size", False):
        return
    raise ProcessorError(
        f"the model does not take pictures of {height} x {width} pixels, but of {native[0]} x {native[1]}: "
        f"call model.set_input_size(img_size=({height}, {width})), make it with timm.create_model(..., dynamic_img_size=True), "
        "or give a transform that ends in its size"
    )


def evaluation_transform(model: nn.Module) -> Any:
    """The evaluation transform, from the data configuration that a timm model carries, at the size that it takes."""
    from timm.data import create_transform, resolve_model_data_config

    configuration = resolve_model_data_config(model)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        configuration["input_size"] = (configuration["input_size"][0], *size)
    return create_transform(**configuration, is_training=False)
