"""What people put around a model: the one place that unwraps it.

A wrapper is only unwrapped, never changed: the model inside is the same object, with the same weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedModelError


def names_of(model: nn.Module) -> list[str]:
    """`package.ClassName` of the model's class and its base classes, the nearest first."""
    return [f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(model).__mro__]


def unwrap(model: Any, processor: Any = None) -> tuple[nn.Module, Any]:
    """The model inside a pipeline, data parallelism, `torch.compile`, low-rank adapters or a cross-encoder.

    Args:
        model: a model, or something that holds one.
        processor: what the user gave; if None, the one that comes with a pipeline or cross-encoder.

    Returns:
        The model and its processor.

    Raises:
        UnsupportedModelError: if there is no torch model inside, or the wrapper adds its own tokens.
    """
    while (inner := _inside(model)) is not None:
        if processor is None:
            brought = (getattr(model, name, None) for name in ("processor", "tokenizer", "image_processor"))
            processor = next((found for found in brought if found is not None), None)
        model = inner
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"expected a torch model or a pipeline that holds one, got {type(model).__name__}: load the model first, "
            "e.g. with AutoModelForSequenceClassification.from_pretrained"
        )
    return model, processor


def _inside(model: Any) -> Any:
    """What a wrapper holds; None for anything else."""
    if not isinstance(model, nn.Module):
        held = getattr(model, "model", None)
        return held if isinstance(held, nn.Module) and hasattr(model, "task") else None
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return model.module
    if "_orig_mod" in model._modules:  # torch.compile
        return model._modules["_orig_mod"]
    if hasattr(model, "peft_config") and callable(get_base_model := getattr(model, "get_base_model", None)):
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"{type(model).__name__} puts learned tokens before the text, which no tokenizer names: explain a model "
                "with low-rank adapters or merged weights"
            )
        return get_base_model()
    return model.model if "sentence_transformers.CrossEncoder" in names_of(model) else None


def main_device(model: nn.Module) -> torch.device:
    """Where inputs go: the device of the first parameter, or the one that offloaded weights are moved to."""
    first = next(model.parameters(), None)
    if first is not None and first.device.type != "meta":
        return first.device
    hooks = [hook for module in model.modules() if (hook := getattr(module, "_hf_hook", None)) is not None]
    for hook in hooks:
        for one in getattr(hook, "hooks", (hook,)):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return torch.device("cpu")


def input_embeddings(model: Any) -> Any:
    """The module with the embeddings of tokens; None if the model does not say."""
    return _said(model, "get_input_embeddings")


def output_embeddings(model: Any) -> Any:
    """The module that makes logits of the vocabulary; None if the model does not say."""
    return _said(model, "get_output_embeddings")


def _said(model: Any, name: str) -> Any:
    get = getattr(model, name, None)
    try:
        return None if get is None else get()
    except (NotImplementedError, AttributeError):  # raised by transformers' models that have none
        return None
