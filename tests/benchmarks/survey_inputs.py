"""What the survey's models are run on, made of their configurations alone: words, pictures, sounds, videos, and both together.

Nothing here is of one model: how many tokens a picture has is asked of the model itself, and of several ways in which models of
a kind are given a picture the first is taken that runs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

import attcat
from attcat.model.discovered.asking import DiscoveredAsking

LENGTH = 11
"""Tokens of the text that a model has to run on by itself before it counts as built."""
ANSWER = (40, 41, 42)
"""What a model that writes is said to have written."""
PIXELS = "pixel_values"
WRITES, SPEAKS = "sequence to sequence", "image and text to text"
PICTURES = (
    "image classification",
    "object detection",
    "semantic segmentation",
    "instance segmentation",
)
PAIRS, ASKED_FOR = "zero-shot image classification", "zero-shot object detection"
ANSWERS = "visual question answering"


def ways(model: Any, task: str) -> Iterator[dict[str, Tensor]]:
    """The arguments that a model of this task may be run on, the likeliest first.

    Raises:
        Exception: whatever the model raises when it is asked about pictures.
    """
    names = inspect.signature(model.forward).parameters
    if task in PICTURES:
        yield {PIXELS: picture(model.config)}
    elif task == "video classification":
        yield {"pixel_values_videos" if "pixel_values_videos" in names else PIXELS: video(model.config)}
    elif task == "audio classification":
        yield {model.main_input_name: torch.rand(1, 16000)}
        yield {model.main_input_name: torch.rand(1, *spectrogram(model.config))}
        yield {model.main_input_name: torch.rand(1, *reversed(spectrogram(model.config)))}
    elif task == "speech to text":
        for sound in ((16000,), spectrogram(model.config), tuple(reversed(spectrogram(model.config)))):
            yield {model.main_input_name: torch.rand(1, *sound), "decoder_input_ids": written(model.config)}
    elif task == SPEAKS:
        yield from spoken(model, names)
    elif task in (PAIRS, ASKED_FOR, ANSWERS):
        yield {**words(names), PIXELS: picture(model.config)}
        if "decoder_input_ids" in names:
            yield {**words(names), PIXELS: picture(model.config), "decoder_input_ids": written(model.config)}
    elif task == WRITES:
        yield {**words(names), "decoder_input_ids": written(model.config)}
    else:
        given = words(names)
        yield given if task != "multiple choice" else {n: v[None].repeat(1, 2, 1) for n, v in given.items()}


def explain(explainer: attcat.Explainer, task: str, given: dict[str, Tensor]) -> None:
    """Ask as a user would, where that is more than one target: what was written, a box, a pixel, both sides of a pair.

    Raises:
        attcat.AttCATError: if the explainer refuses.
    """
    if task in (WRITES, SPEAKS):
        source = {n: v for n, v in given.items() if not n.startswith("decoder")}
        adapter = explainer.adapter
        if hasattr(adapter, "sense") and PIXELS in given and not isinstance(adapter, DiscoveredAsking):
            source = {PIXELS: given[PIXELS]}  # its words are what it has written
        generation = explainer(source, answer=list(ANSWER))
        if len(generation.explanations) != len(ANSWER) or not generation.matrix.shape[0] == len(ANSWER):
            raise AssertionError("an answer has an explanation for each of its tokens")
    elif task in ("object detection", ASKED_FOR):
        explainer(given, ("box", 0))
    elif task == "instance segmentation":
        explainer(given, ("segment", 0))
    elif task == "semantic segmentation":
        height, width = given[PIXELS].shape[-2:]
        explainer(given, ("pixel", width // 2, height // 2))
    elif task in (PAIRS, ANSWERS, "video classification"):
        explainer(given)


def processor(model: Any, given: dict[str, Tensor]) -> Any:
    """The usual feature extractor of a model that reads spectrograms, or hears and writes; others do without a processor."""
    main = given.get(getattr(model, "main_input_name", ""))
    name = FEATURE_EXTRACTOR_MAPPING_NAMES.get(model.config.model_type) if hasattr(model, "config") else None
    if main is None or name is None or not main.is_floating_point() or PIXELS in given:
        return None
    if main.dim() != 3 and not model.config.is_encoder_decoder:
        return None
    sizes = {n: v for n in ("max_length", "num_mel_bins") if (v := getattr(model.config, n, None)) is not None}
    kind = getattr(transformers, name)
    # Of some the list names another one than their processor has.
    if model.main_input_name not in kind.model_input_names:
        kind = transformers.SeamlessM4TFeatureExtractor
    taken = inspect.signature(kind).parameters
    if main.dim() == 3 and "feature_size" in taken and main.shape[-1] == spectrogram(model.config)[0]:
        return kind(feature_size=main.shape[-1])
    return kind(**sizes) if "num_mel_bins" in taken else kind()


def check_output(output: Any) -> None:
    """Refuse a model that gives no number at all."""
    answers = getattr(output, "logits", getattr(output, "start_logits", None))
    if isinstance(answers, Tensor) and not answers.isfinite().any():
        raise ValueError("it gives no finite logits")


# -- words, pictures, sounds -----------------------------------------------------------------------------------------


def words(names: Any) -> dict[str, Tensor]:
    """One text, `[1, LENGTH]`."""
    ids = torch.arange(20, 20 + LENGTH)[None]
    ids[0, -1] = 2
    return {"input_ids": ids, **({"attention_mask": torch.ones_like(ids)} if "attention_mask" in names else {})}


def written(config: Any) -> Tensor:
    """The decoder's start token, and what is said to be written."""
    start = getattr(config, "decoder_start_token_id", None)
    return torch.tensor([[2 if start is None else start, *ANSWER]])


def setting(config: Any, *names: str) -> Any:
    """A setting of the part that sees, or of the whole."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "to_dict"))]
    for part in sorted(parts, key=lambda part: "vision" not in str(getattr(part, "model_type", ""))):
        for name in names:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return None


def sides(config: Any) -> tuple[int, int]:
    """Height and width of the pictures that a model takes."""
    size = setting(config, "image_size") or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height, width


def picture(config: Any) -> Tensor:
    """Noise of the model's own size."""
    channels = setting(config, "num_channels")
    return torch.rand(1, channels if isinstance(channels, int) else 3, *sides(config))


def video(config: Any) -> Tensor:
    """So many frames of noise, `[1, F, 3, H, W]`."""
    frames = setting(config, "num_frames", "frames_per_clip") or 8
    height = setting(config, "crop_size") or sides(config)[0]
    width = setting(config, "crop_size") or sides(config)[1]
    return torch.rand(1, frames, 3, height, width)


def spectrogram(config: Any) -> tuple[int, int]:
    """Bands and moments."""
    bands = setting(config, "num_mel_bins", "input_feat_per_channel", "n_mels", "feature_projection_input_dim") or 80
    positions = setting(config, "max_source_positions") or 100
    moments = setting(config, "max_length") if setting(config, "frequency_stride") else 2 * positions
    return bands, min(moments or 200, 4000)


# -- words and pictures in one sequence ------------------------------------------------------------------------------


def spoken(model: Any, names: Any) -> Iterator[dict[str, Tensor]]:
    """A picture and a text, in the ways in which models are given one; as many of its tokens as the model makes of it."""
    failed: Exception | None = None
    for seen in seen_ways(model.config, names):
        try:
            count = places(model, seen)
        except Exception as error:
            failed = failed or error
            continue
        for more in ({}, {"types": True}, {"decoder": True}):
            given = {**seen, **around(model, names, count, **more)}
            if "cross_attention_mask" in names and "aspect_ratio_mask" in seen:  # every word reads every tile
                length, tiles = given["input_ids"].shape[1], seen["aspect_ratio_mask"].shape[2]
                given["cross_attention_mask"] = torch.ones(1, length, 1, tiles, dtype=torch.long)
            yield given
    if failed is not None:
        raise failed


def seen_ways(config: Any, names: Any) -> Iterator[dict[str, Tensor]]:
    """One picture: whole, in frames, or cut into patches."""
    (height, width), patch = sides(config), setting(config, "patch_size") or 16
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    merge = setting(config, "spatial_merge_size", "merge_kernel_size") or 2
    merge = merge[0] if isinstance(merge, (list, tuple)) else merge
    cells, frames = 4 * merge, setting(config, "temporal_patch_size") or 2
    flat = torch.randn(cells * cells, 3 * frames * patch * patch)
    positions = torch.stack(torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="xy"), -1).view(1, -1, 2)
    plain, size = torch.randn(1, 3, height, width), torch.tensor([[height, width]])
    if "image_grid_thw" in names:
        one = flat[:, : 3 * patch * patch]
        for pixels in (flat, one, one.view(len(one), 3, patch, patch), flat.view(len(flat), -1, patch, patch)):
            sizes = {"image_merge_sizes": torch.tensor([merge])} if "image_merge_sizes" in names else {}
            yield {PIXELS: pixels, "image_grid_thw": torch.tensor([[1, cells, cells]]), **sizes}
    if "image_grid_hw" in names:
        yield {PIXELS: flat, "image_grid_hw": torch.tensor([[cells, cells]])}
    if "spatial_shapes" in names:
        kept = torch.ones(1, len(flat), dtype=torch.long)
        shapes = torch.tensor([[cells, cells]])
        yield {PIXELS: flat[None, :, : 3 * patch * patch], "spatial_shapes": shapes, "pixel_attention_mask": kept}
    if "aspect_ratio_ids" in names:
        tiles = setting(config, "max_num_tiles") or 1
        shape = {"aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long)}
        shape["aspect_ratio_mask"] = torch.ones(1, 1, tiles, dtype=torch.long)
        yield {PIXELS: torch.randn(1, 1, tiles, 3, height, width), **shape}
    if "image_position_ids" in names:
        yield {PIXELS: flat[None, :, : 3 * patch * patch].sigmoid(), "image_position_ids": positions}
    if "flattened_patches" in names:
        yield {"flattened_patches": torch.cat([positions[0].float() + 1, flat[:, : 3 * patch * patch]], 1)[None]}
    if "image_sizes" in names:
        yield {PIXELS: plain, "image_sizes": size}
        yield {PIXELS: plain[:, None].repeat(1, 2, 1, 1, 1), "image_sizes": size}
        yield {PIXELS: plain[:, None].repeat(1, 3, 1, 1, 1), "image_sizes": size}
    if PIXELS in names:
        yield {PIXELS: plain}
        yield {PIXELS: plain[:, None]}
        if "pixel_attention_mask" in names:
            yield {PIXELS: plain[:, None], "pixel_attention_mask": torch.ones(1, 1, height, width, dtype=torch.long)}


def places(model: Any, seen: dict[str, Tensor]) -> int:
    """How many tokens a picture has in the text; 0 if the model has no number for them."""
    if mark(model.config) is None and not hasattr(model.config, "latent_query_num"):
        return 0
    get = getattr(model, "get_image_features", None) or getattr(model.base_model, "get_image_features", None)
    if get is None and isinstance(count := getattr(model.config, "latent_query_num", None), int):
        return count
    if get is None and "cross_attention_mask" in inspect.signature(model.forward).parameters:
        return 1  # which says where the words begin to read it
    if get is None:
        raise ValueError("it has a token for pictures, and no get_image_features that says how many")
    taken = inspect.signature(get).parameters
    given = {name: value for name, value in seen.items() if name in taken or "kwargs" in taken}
    if "qformer_input_ids" in taken:
        given["qformer_input_ids"] = words(taken)["input_ids"]
    with torch.no_grad():
        made = get(**given)
    kinds = (getattr(made, name, None) for name in ("pooler_output", "last_hidden_state"))
    made = next((kind for kind in kinds if kind is not None), made)
    parts = made if isinstance(made, (list, tuple)) else [made]
    width = model.get_input_embeddings().weight.shape[1]
    return sum(part.numel() for part in parts if isinstance(part, Tensor)) // width


def mark(config: Any) -> int | None:
    """The number of the token that stands for a part of a picture."""
    for name in ("image_token_id", "image_token_index", "image_patch_token_id", "media_placeholder_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return None


def around(model: Any, names: Any, count: int, types: bool = False, decoder: bool = False) -> dict[str, Tensor]:
    """A text with so many tokens of a picture after its first."""
    number = mark(model.config) or 3
    row = [20, *[number] * count, *range(21, 20 + LENGTH)]
    ids = torch.tensor([row])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    of_picture = (ids == number).long()
    given |= {name: of_picture for name in names if name.endswith("mm_token_type_ids")}
    if types and "token_type_ids" in names:
        given["token_type_ids"] = of_picture
    if "qformer_input_ids" in names:
        given |= {"qformer_input_ids": ids[:, -3:], "qformer_attention_mask": torch.ones_like(ids[:, -3:])}
    if "image_embeds_position_mask" in names:
        given["image_embeds_position_mask"] = of_picture.bool()
    if decoder and "decoder_input_ids" in names:
        given["decoder_input_ids"] = written(model.config)
    return given


def told(error: Exception) -> str:
    """An error in one line, without what changes from run to run."""
    return re.sub(r"0x[0-9a-f]+", "0x...", f"{type(error).__name__}: {error}")
