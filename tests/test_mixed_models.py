"""Models that read words and pictures in one sequence: where every patch lies, what is explained, and what they write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks_zoo import redraw
from tokenizers_small import byte_bpe
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

import attcat
from attcat.model.discovered import mixed, placing
from attcat.testing import check_adapter
from attcat.tokens import Interleaved, Tokens

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
QUESTION = "a gripping film?"
SIDE = 32
PLACED = "a patch is seen at its own token"
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}MARK"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}film: {% endif %}"
)


def tokenizer(*tokens: str, **named: str) -> PreTrainedTokenizerFast:
    """The small tokenizer with tokens for pictures, and names for some of them."""
    plain = byte_bpe()
    found = PreTrainedTokenizerFast(
        tokenizer_object=plain._tokenizer.__class__.from_str(plain._tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=1000,
        extra_special_tokens=named or None,
    )
    found.add_special_tokens({"additional_special_tokens": [*named.values(), *tokens]})
    for name, token in named.items():
        setattr(found, name, token)
        setattr(found, f"{name}_id", found.convert_tokens_to_ids(token))
    return found


def line(words: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """A small language model."""
    return {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1000,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **more,
    }


TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}


def llava() -> tuple[nn.Module, Any]:
    words = tokenizer("<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER, projection_dim=32),
        text_config=transformers.LlamaConfig(**line(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(
        pictures, words, **options, chat_template=CHAT.replace("MARK", "<image>\\n")
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[nn.Module, Any]:
    words = tokenizer("<image>")
    pins = [[32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER, projection_dim=32),
        text_config=transformers.LlamaConfig(**line(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
    )
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pins
    )
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaNextForConditionalGeneration(config), transformers.LlavaNextProcessor(
        pictures, words, **options
    )


def qwen(kind: str) -> tuple[nn.Module, Any]:
    words = tokenizer("<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>")
    ids = {
        name: words.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = line(words, rope_parameters=rope)
    tower: dict[str, Any] = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if kind == "Qwen2VL":
        tower |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    elif kind == "Qwen2_5_VL":
        tower |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
        tower |= {"window_size": 16, "fullatt_block_indexes": [1]}
    else:
        tower |= {
            "hidden_size": 32,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        }
        text |= {"head_dim": 8}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=tower, **ids)
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 2500}
    )
    processor = transformers.Qwen2VLProcessor(
        pictures,
        words,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT.replace("MARK", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def gemma3() -> tuple[nn.Module, Any]:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    ids = {
        "image_token_index": words.convert_tokens_to_ids("<image_soft_token>"),
        "boi_token_index": words.convert_tokens_to_ids("<start_of_image>"),
        "eoi_token_index": words.convert_tokens_to_ids("<end_of_image>"),
    }
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**line(words, head_dim=8, sliding_window=16)),
        vision_config=transformers.SiglipVisionConfig(**{**TOWER, "patch_size": 4}),
        mm_tokens_per_image=16,
        **ids,
    )
    pictures = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return (
        transformers.Gemma3ForConditionalGeneration(config),
        transformers.Gemma3Processor(pictures, words, image_seq_length=16),
    )


def paligemma() -> tuple[nn.Module, Any]:
    words = tokenizer(image_token="<image>")
    pictures = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    pictures.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pictures, words)
    config = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**line(words, head_dim=8)),
        vision_config=transformers.SiglipVisionConfig(**TOWER, vision_use_head=False),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def mistral3() -> tuple[nn.Module, Any]:
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**line(words, head_dim=8)),
        vision_config=transformers.PixtralVisionConfig(**{**TOWER, "image_size": 64, "head_dim": 8, "patch_size": 4}),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    pictures = PixtralImageProcessorPil(size={"longest_edge": 40}, patch_size=4)
    return (
        transformers.Mistral3ForConditionalGeneration(config),
        transformers.PixtralProcessor(pictures, words, patch_size=4, spatial_merge_size=2),
    )


def idefics(kind: str) -> tuple[nn.Module, Any]:
    words = tokenizer(
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        "<end_of_utterance>",
        *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)),
    )
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": SIDE})
    processor = transformers.Idefics3Processor(pictures, words, image_seq_len=4)
    config = getattr(transformers, f"{kind}Config")(
        text_config=transformers.LlamaConfig(**line(words)),
        vision_config={**TOWER, "max_num_patches_per_image": 64},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=1,
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def internvl() -> tuple[nn.Module, Any]:
    words = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    pictures = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = transformers.InternVLProcessor(
        pictures, words, transformers.InternVLVideoProcessor(), image_seq_length=4
    )
    config = transformers.InternVLConfig(
        text_config=transformers.LlamaConfig(**line(words)),
        vision_config={**TOWER, "image_size": [SIDE, SIDE], "patch_size": [8, 8]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return transformers.InternVLForConditionalGeneration(config), processor


def onevision() -> tuple[nn.Module, Any]:
    words = tokenizer(image_token="<image>", video_token="<video>")
    pins = [[32, 64], [64, 32], [64, 64]]
    pictures = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pins)
    processor = transformers.LlavaOnevisionProcessor(
        pictures,
        words,
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=transformers.Qwen2Config(**line(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pins,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "llava": llava,
    "qwen2-vl": lambda: qwen("Qwen2VL"),
    "qwen2.5-vl": lambda: qwen("Qwen2_5_VL"),
    "gemma3": gemma3,
    "paligemma": paligemma,
    "idefics3": lambda: idefics("Idefics3"),
    "smolvlm": lambda: idefics("SmolVLM"),
    "internvl": internvl,
    "llava-next": llava_next,
    "llava-onevision": onevision,
    "mistral3": mistral3,
    "qwen3-vl": lambda: qwen("Qwen3VL"),
}


def vilt() -> tuple[nn.Module, Any]:
    words = tokenizer()
    words.model_input_names = ["input_ids", "attention_mask"]
    pictures = ViltImageProcessorPil(size={"shortest_edge": SIDE}, size_divisor=8)
    sizes = {name: TOWER[name] for name in TOWER}
    config = transformers.ViltConfig(**sizes, vocab_size=len(words), num_labels=5, max_position_embeddings=60)
    return transformers.ViltForQuestionAnswering(config), transformers.ViltProcessor(pictures, words)


ENCODERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {"vilt": vilt}


@cache
def made(name: str) -> tuple[nn.Module, Any, attcat.Explainer]:
    torch.manual_seed(0)
    model, processor = {**FAMILIES, **ENCODERS}[name]()
    return redraw(model.eval()), processor, attcat.Explainer(model, processor, method="cat")


def encoded(name: str, value: Any) -> Tokens:
    return made(name)[2].adapter.encode([value]).tokens[0]


def first_state(name: str, picture: np.ndarray) -> Tensor:
    """What the language model's first block takes, by a hook of our own."""
    model, _, explainer = made(name)
    seen: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach())

    block = model.vilt.encoder.layer[0] if name == "vilt" else model.get_decoder().layers[0]
    hook = block.register_forward_pre_hook(enter, with_kwargs=True)
    with torch.no_grad():
        model(**explainer.adapter.encode([(picture, QUESTION)]).arguments)
    hook.remove()
    return seen[0][0]


def paint_corners(tokens: Tokens, state_of: Callable[[np.ndarray], Tensor], relative: bool = False) -> None:
    """Each corner of what a grid shows, painted over, moves the token that is said to lie there more than others; or, where
    `relative`, more than that token is moved otherwise: behind many convolutions some tokens answer to everything."""
    assert tokens.patches is not None
    assert tokens.places is not None
    plain = state_of(PICTURE)
    boxes = [patches.view.box for patches in tokens.patches if patches.view is not None]
    left, right = (round(min(max(0, min(b[0] for b in boxes)), 72)), round(min(80, max(b[2] for b in boxes))))
    moves = []
    for top, start in ((0, left), (40, right - 8), (0, right - 8), (40, left)):  # corners of what is shown
        rows, columns = slice(top, top + 8), slice(start, start + 8)
        painted = PICTURE.copy()
        painted[rows, columns] = np.where(painted[rows, columns] > 127, 0, 255)
        centre = ((rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2)
        moves.append((centre, (state_of(painted) - plain).norm(dim=-1)))
    usual = torch.stack([change for _, change in moves]).mean(0).clamp(min=1e-30)
    for number, patches in enumerate(tokens.patches):
        if patches.grid is None:
            continue  # of the picture as a whole
        assert patches.view is not None
        own = [at for at, place in enumerate(tokens.places) if place is not None and place[0] == number]
        cells = patches.view.cells(patches.grid)
        seen = 0
        for centre, change in moves:
            cell = int(cells[centre])
            if cell < 0:
                continue  # cropped, or of another tile
            seen += 1
            answers = change / usual if relative else change
            assert tokens.places[own[int(answers[own].argmax())]] == (number, cell)
        assert seen or len(tokens.patches) > 1


@pytest.mark.parametrize("name", [*FAMILIES, *ENCODERS])
def test_every_painted_corner_moves_the_token_that_lies_there(name: str) -> None:
    paint_corners(encoded(name, (PICTURE, QUESTION)), lambda picture: first_state(name, picture))


@pytest.mark.parametrize("name", [*FAMILIES, *ENCODERS])
def test_every_family_keeps_what_adapters_promise(name: str) -> None:
    model, processor, _ = made(name)
    assert [str(check) for check in check_adapter(model, processor) if check.passed is False] == []


def test_the_check_sees_tokens_in_wrong_places() -> None:
    model, processor, explainer = made("llava")
    adapter = explainer.adapter
    encoding = adapter.encode([(PICTURE, QUESTION)])
    tokens = encoding.tokens[0]
    assert tokens.places is not None
    mirrored = tuple(None if place is None else (place[0], 15 - place[1]) for place in tokens.places)

    def figure(given: Any) -> float:
        (found,) = [check for check in check_adapter(model, processor, given) if check.name == PLACED]
        assert found.passed is (found.measured <= found.limit)
        return found.measured

    assert figure([(PICTURE, QUESTION)]) <= 1
    assert figure(replace(encoding, tokens=(replace(tokens, places=mirrored),))) == 3


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_written_in_one_pass_is_what_it_is_word_by_word(name: str) -> None:
    model, _, explainer = made(name)
    found = explainer((PICTURE, QUESTION), answer=[40, 41, 42])
    prompt = explainer.adapter.prompt((PICTURE, QUESTION))
    row, ids = torch.tensor([prompt.ids]), [40, 41, 42]
    with torch.no_grad():
        made_of = model(input_ids=row, attention_mask=torch.ones_like(row), **prompt.further, use_cache=True)
        logits, cache = made_of.logits[0, -1], made_of.past_key_values
        for place, explanation in enumerate(found.explanations):
            assert explanation.value == pytest.approx(float(logits[ids[place]]), rel=1e-3, abs=1e-3)
            later = model.get_decoder()(
                inputs_embeds=model.get_input_embeddings()(torch.tensor([[ids[place]]])),
                past_key_values=cache,
                use_cache=True,
                position_ids=positions(model, len(prompt.ids) + place),
            )
            logits = model.lm_head(later.last_hidden_state)[0, -1]


def positions(model: Any, position: int) -> Tensor:
    """The position of a written token, as the model counts it."""
    deltas = getattr(model.model, "rope_deltas", None)
    if deltas is None:
        return torch.tensor([[position + (1 if "PaliGemma" in type(model).__name__ else 0)]])
    return (torch.tensor([[position]]) + deltas).expand(3, 1, 1)


def test_the_scores_are_those_of_plain_autograd() -> None:
    model, _, _ = made("llava")
    explainer = attcat.Explainer(made("llava")[2].adapter, method="cat", rule="plain")
    found = explainer((PICTURE, QUESTION))
    arguments = explainer.adapter.encode([(PICTURE, QUESTION)]).arguments
    states: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        state.retain_grad()
        states.append(state)

    hooks = [b.register_forward_pre_hook(enter, with_kwargs=True) for b in model.model.language_model.layers]
    row = model(**arguments).logits[0, -1]
    for hook in hooks:
        hook.remove()
    row.max().backward()
    expected = sum((s * s.grad).sum(-1)[0].detach() for s in states)
    model.zero_grad()
    torch.testing.assert_close(torch.as_tensor(found.scores), expected, rtol=1e-4, atol=1e-5)


def test_an_input_is_one_explanation_of_words_and_patches() -> None:
    found = made("llava")[2]((PICTURE, QUESTION))
    assert isinstance(found.source, Interleaved)
    assert [word.text for word in found.words()] == ["a", "gripping", "film", "?"]
    assert found.heatmap(image=0).shape == (48, 80)
    assert found.tokens.labels.count("0,0") == 1


def test_a_chat_with_two_pictures() -> None:
    explainer = made("llava")[2]
    content = [
        {"type": "image", "image": PICTURE},
        {"type": "text", "text": "a film,"},
        {"type": "image", "image": PICTURE[:, :40]},
        {"type": "text", "text": "boring?"},
    ]
    found = explainer([{"role": "user", "content": content}])
    assert [word.text for word in found.words()] == ["a", "film", ",", "boring", "?"]
    assert found.source.text.count("<image>") == 2
    assert found.heatmap(image=1).shape == (48, 40)


def test_what_it_writes_itself() -> None:
    explainer = made("llava")[2]
    mark = explainer.adapter.processor.convert_tokens_to_ids("<image>")
    found = explainer.generate((PICTURE, QUESTION), max_new_tokens=3, suppress_tokens=[mark], min_new_tokens=3)
    assert len(found.explanations) == 3
    later = found.explanations[2]
    assert later.heatmap(image=0).shape == (48, 80)


def test_model_arguments_do_without_a_processor() -> None:
    model, _, explainer = made("llava")
    arguments = explainer.adapter.encode([(PICTURE, QUESTION)]).arguments
    bare = attcat.Explainer(model, method="cat")
    found = bare(dict(arguments))
    expected = explainer((PICTURE, QUESTION))
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    (tokens,) = bare.adapter.encode_arguments(arguments).tokens
    assert tokens.patches is not None
    assert [patches.grid for patches in tokens.patches] == [(4, 4)]


def test_words_and_patches_are_removed_in_one_call() -> None:
    adapter = made("llava")[2].adapter
    encoding = adapter.encode([(PICTURE, QUESTION)])
    tokens = encoding.tokens[0]
    assert tokens.places is not None
    removed = torch.zeros_like(encoding.mask)
    patch, word = tokens.places.index((0, 0)), next(at for at, span in enumerate(tokens.spans or ()) if span)
    removed[0, [patch, word]] = True
    other = adapter.remove(encoding, removed)
    changed = other.arguments["pixel_values"] != encoding.arguments["pixel_values"]
    assert changed[0, :, 1:7, 1:7].float().mean() > 0.9
    assert not changed[0, :, 12:].any()
    assert not changed[0, :, :, 12:].any()
    assert (other.arguments["input_ids"] != encoding.arguments["input_ids"])[0].nonzero().flatten().tolist() == [word]


def test_something_else_than_a_picture_and_a_text_is_refused() -> None:
    explainer = made("llava")[2]
    with pytest.raises(attcat.InputError, match="a picture and a text"):
        explainer((PICTURE, 3))
    with pytest.raises(attcat.InputError, match="content is a text, or a list"):
        explainer([{"role": "user", "content": [{"type": "sound"}]}])


def test_the_first_picture_of_a_size_takes_a_few_dozen_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where tokens lie in no order, of which every cell might be painted: 96 of them here."""
    model, processor, _ = made("vilt")
    adapter = attcat.Explainer(model, processor).adapter
    passes, states = [], mixed.DiscoveredMixed._states
    monkeypatch.setattr(mixed.DiscoveredMixed, "_states", lambda *given: passes.append(1) or states(*given))
    processor.image_processor.size = {"shortest_edge": 64}
    try:
        tokens = adapter.encode([(np.zeros((64, 96, 3), np.uint8), "what?")]).tokens[0]
    finally:
        processor.image_processor.size = {"shortest_edge": SIDE}
    assert tokens.patches is not None
    assert tokens.patches[0].grid == (8, 12)
    assert sorted(place[1] for place in tokens.places or () if place) == list(range(96))
    assert len(passes) <= placing.TRIALS + 2 * (3 + 4) + 10


def test_sizes_of_pictures_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places of the latest sizes are remembered; a size that was forgotten is found again."""
    monkeypatch.setattr(placing, "KEPT", 2)
    model, processor, _ = made("llava")
    adapter = attcat.Explainer(model, processor).adapter
    assert isinstance(adapter, mixed.DiscoveredMixed)
    pictures = [PICTURE[:, :width] for width in (80, 64, 48, 32, 80)]
    first, *_, again = [adapter.encode([(picture, "what?")]).tokens[0] for picture in pictures]
    assert len(adapter._runs) == 2
    assert again == first


def test_a_picture_beside_a_text_takes_none_of_its_positions() -> None:
    with pytest.raises(attcat.InputError, match=r"the text has 8\d tokens, the model takes at most 60"):
        made("vilt")[2]((PICTURE, "film " * 80))


def test_what_a_tower_adds_between_blocks_is_counted_by_plain_autograd() -> None:
    """Qwen3-VL's later blocks are given features of the picture, too (DeepStack)."""
    model, _, explainer = made("qwen3-vl")
    found = attcat.Explainer(explainer.adapter, method="input_x_gradient", rule="plain")((PICTURE, QUESTION))
    blocks, taken, returned = model.get_decoder().layers, list[Tensor](), list[Tensor]()
    hooks = [
        b.register_forward_pre_hook(lambda m, a, k: taken.append(a[0] if a else k["hidden_states"]), with_kwargs=True)
        for b in blocks
    ]
    hooks += [b.register_forward_hook(lambda m, a, output: returned.append(output)) for b in blocks]
    row = model(**explainer.adapter.encode([(PICTURE, QUESTION)]).arguments).logits[0, -1]
    for hook in hooks:
        hook.remove()
    slopes = torch.autograd.grad(row.max(), taken)
    added = [taken[0], *(state - before for state, before in zip(taken[1:], returned, strict=False))]
    later = [(one * g)[0].sum(-1).detach() for one, g in zip(added, slopes, strict=True)]
    torch.testing.assert_close(torch.as_tensor(found.scores), sum(later), rtol=1e-4, atol=1e-5)
    assert float(later[1].abs().sum()) > 0.5 * float(later[0][: len(later[0]) - 6].abs().sum())  # it is no small part
    assert not later[2].any()


@pytest.mark.parametrize("answer", [None, [40, 41]])
def test_what_a_tower_adds_between_blocks_is_no_bias(answer: list[int] | None) -> None:
    model, _, explainer = made("qwen3-vl")
    complete = attcat.Explainer(explainer.adapter, method="input_x_gradient+libra", completeness=True)
    biases = {n: p for n, p in model.get_decoder().named_parameters() if n.endswith("bias")}
    kept = {n: p.detach().clone() for n, p in biases.items()}
    try:
        for bias in biases.values():
            bias.data.zero_()
        found = complete((PICTURE, QUESTION), **({} if answer is None else {"answer": answer}))
        for one in [found] if answer is None else found.explanations:
            assert one.bias == pytest.approx(0, abs=1e-6)
            assert float(one.scores.sum()) == pytest.approx(one.value, rel=1e-4, abs=1e-6)
    finally:
        for n, bias in biases.items():
            bias.data.copy_(kept[n])


def test_the_default_counts_what_a_tower_adds_between_blocks() -> None:
    explainer = attcat.Explainer(made("qwen3-vl")[2].adapter)
    layers = explainer((PICTURE, QUESTION)).layers
    assert layers[1].any()
    assert not layers[2].any()
    assert not attcat.Explainer(made("qwen2.5-vl")[2].adapter)((PICTURE, QUESTION)).layers[1:].any()


@pytest.mark.parametrize("answer", [[-1], [40, 3.7], ["film"], [None]])
def test_an_answer_of_something_else_than_token_numbers_is_refused(answer: Any) -> None:
    with pytest.raises(attcat.InputError, match="token numbers"):
        made("llava")[2]((PICTURE, QUESTION), answer=answer)


def test_a_picture_without_a_question_is_refused() -> None:
    with pytest.raises(attcat.InputError, match="the text beside the picture is empty"):
        made("llava")[2]((PICTURE, " "))
