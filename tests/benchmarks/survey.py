"""Which models of transformers and timm can be explained: everything in their lists that can be built small.

    python tests/benchmarks/survey.py [--only WORD,WORD] [--unless-works] [--jobs N] [--record FILE] [--write]

Every class with a head that AttCAT explains is built from a small configuration with random parameters, run by itself, and
given to `attcat.testing.check_adapter`, each in a forked child with limits of time and memory, so that no model can stop the
survey. What was found is kept in a record and not asked again for the same code and libraries: what was interrupted goes on
where it ended. `--write` makes docs/architectures.md and docs/architectures.html of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import survey_inputs
import survey_page
import timm
import torch
import transformers
from survey_inputs import ANSWERS, ASKED_FOR, PAIRS, SPEAKS, WRITES
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

import attcat
from attcat.capture.unwound import unwound
from attcat.explainer.proof import prove
from attcat.testing import check_adapter

ROOT = Path(__file__).parents[2]
SECONDS, BYTES, PARAMETERS, FEWER = 400, 8 << 30, 200_000_000, 100_000_000
"""The most that a case may take; the fewer parameters of what has to be tried in more ways."""

TASKS = {
    "ForSequenceClassification": "text classification",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForMaskedLM": "masked language modeling",
    "ForCausalLM": "causal language modeling",
    "LMHeadModel": "causal language modeling",
    "ForImageClassification": "image classification",
    "ForNextSentencePrediction": "next sentence prediction",
}
"""By the end of a class's name."""
LISTS = {
    "IMAGE_TEXT_TO_TEXT": SPEAKS,
    "SEQ_TO_SEQ_CAUSAL_LM": WRITES,
    "SPEECH_SEQ_2_SEQ": "speech to text",
    "SEQUENCE_CLASSIFICATION": "text classification",
    "TOKEN_CLASSIFICATION": "token classification",
    "QUESTION_ANSWERING": "question answering",
    "MULTIPLE_CHOICE": "multiple choice",
    "MASKED_LM": "masked language modeling",
    "CAUSAL_LM": "causal language modeling",
    "NEXT_SENTENCE_PREDICTION": "next sentence prediction",
    "AUDIO_CLASSIFICATION": "audio classification",
    "IMAGE_CLASSIFICATION": "image classification",
    "VIDEO_CLASSIFICATION": "video classification",
    "OBJECT_DETECTION": "object detection",
    "SEMANTIC_SEGMENTATION": "semantic segmentation",
    "INSTANCE_SEGMENTATION": "instance segmentation",
    "UNIVERSAL_SEGMENTATION": "instance segmentation",
    "ZERO_SHOT_IMAGE_CLASSIFICATION": PAIRS,
    "ZERO_SHOT_OBJECT_DETECTION": ASKED_FOR,
    "VISUAL_QUESTION_ANSWERING": ANSWERS,
}
"""Of other names by transformers' own lists of classes, `MODEL_FOR_..._MAPPING_NAMES`; of two that have a class the first one
counts."""
SOUND = ("input_values", "input_features")
WIDTH = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "embed_dim"), 32),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"),
        4,
    ),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "d_inner", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48
    ),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "moe_intermediate_size": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
DEPTH = dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2)
COUNTS: dict[str, Any] = {
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    "vocab_size": 340,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    "vocab_size_per_layer_input": 340,
    "num_kv_shared_layers": 0,
    "num_labels": 3,
}
LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "qk_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
STATE_SPACE: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
}
PICTURE = {"image_size": 32, "patch_size": 8, "crop_size": 32, "frames_per_clip": 8}
MIXED: dict[str, Any] = {
    "depth": 2,
    "out_hidden_size": 32,
    "projection_dim": 32,
    "max_position_embeddings": 256,
    "mm_tokens_per_image": 4,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [1],
    "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]],
    "latent_query_num": 4,
    "num_query_tokens": 4,
    "projector_patch_to_query_dict": {16: 4},
}
"""Where pictures are read beside words."""
NUMBERS, MARKS = ("_token_id", "_token_index"), dict[str, int]()
"""How settings end that are a token's number, and which numbers they were given."""
ATTEMPTS: tuple[dict[str, Any], ...] = (
    {**WIDTH, **DEPTH, **COUNTS, **PICTURE},
    {**WIDTH, **DEPTH, **COUNTS, **PICTURE, **LATENT, **STATE_SPACE},
    {**WIDTH, **COUNTS, **PICTURE},
    {**DEPTH, **COUNTS, **PICTURE},
    {**DEPTH, **COUNTS},
    {**COUNTS},
    {"num_labels": 3},
    {},
)
"""What configurations are given, as far as they have a setting of that name, also those inside others: smaller in every way,
or if such a model does not run in fewer ways. The first with which it runs is taken."""
HEARD: dict[str, Any] = {
    "vision_start_token_id": 320,
    "vision_end_token_id": 321,
    "audio_start_token_id": 322,
    "audio_end_token_id": 323,
}
OWN: dict[str, dict[str, Any]] = {
    "AST": {"patch_size": 16},
    "BigBird": {"attention_type": "original_full"},
    "GPTJ": {"rotary_dim": 4},
    "T5For": {"decoder_start_token_id": 0},
    "Xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "Perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "CodeGen": {"rotary_dim": 4},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "Bamba": {"attn_layer_indices": [1], **STATE_SPACE},
    "GraniteMoeHybrid": {"layer_types": ["mamba", "attention"], **STATE_SPACE},
    "LongcatFlash": {"num_hidden_layers": 4, "num_layers": 2, **LATENT},
    "FalconH1": {"mamba_d_ssm": 64, **STATE_SPACE},
    "BailingHybrid": {"layer_group_size": 2, **LATENT},
    "Dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "Gemma3n": {
        "hidden_size_per_layer_input": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "laurel_rank": 8,
    },
    "Gemma4Assistant": {"hidden_size_per_layer_input": 0},
    "Gemma4": {"hidden_size_per_layer_input": 16},
    "Qwen2_5OmniThinker": HEARD,
    "Qwen3OmniMoeThinker": HEARD,
    "BeitForSemantic": {"out_indices": [3, 5, 7, 11]},
    "Mllama": {"intermediate_layers_indices": [0, 1], "cross_attention_layers": [1], "vision_output_dim": 96},
    "Llama4For": {
        "intermediate_size": 128,
        "intermediate_size_mlp": 48,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
    },
}
"""Settings of single kinds of models, by the beginning of their names."""


@dataclass(frozen=True)
class Case:
    """One model to be tried."""

    library: str
    name: str
    task: str
    family: str

    @property
    def key(self) -> str:
        """In the record."""
        return f"{self.library}.{self.name}"


def cases(names: Iterable[str] | None = None) -> Iterator[Case]:
    """Every class of transformers with a head (or these), and a small model of each of timm's modules."""
    listed = by_list()
    for name in sorted({*dir(transformers), *listed} if names is None else names):
        end = next((end for end in TASKS if name.endswith(end)), "")
        kind = getattr(transformers, name, None)
        if name.startswith(("Auto", "DataCollator")) or not (end or name in listed) or kind is None:
            continue
        sound = getattr(kind, "main_input_name", None) in SOUND
        task = TASKS[end] if end and listed.get(name) != ANSWERS else listed[name]
        if sound and task == TASKS["ForSequenceClassification"]:
            task = "audio classification"
        yield Case("transformers", name, task, family(name, end))
    sizes = (
        "test",
        "atto",
        "nano",
        "femto",
        "pico",
        "xxs",
        "xx_small",
        "tiny",
        "extra_small",
        "_xs",
        "small",
        "mini",
        "_s",
    )
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            rank = {n: next((i for i, size in enumerate(sizes) if size in n), len(sizes)) for n in names}
            yield Case(
                "timm", min(names, key=lambda n: (rank[n], len(n))), "image classification (timm)", f"timm {module}"
            )


def by_list() -> dict[str, str]:
    """The task of each class that transformers lists."""
    found: dict[str, str] = {}
    for part, task in LISTS.items():
        for names in getattr(modeling_auto, f"MODEL_FOR_{part}_MAPPING_NAMES").values():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(name, task)
    return found


def family(name: str, end: str) -> str:
    """What is left of a class's name without its head."""
    ends = (end, "ModelWithLMHead", "MTModel", "Model") if end else ("ModelWithLMHead", "MTModel", "Model")
    for head in ends:
        if name.endswith(head):
            return name.removesuffix(head).removesuffix("With")
    return name.rpartition("For")[0] or name


# -- building --------------------------------------------------------------------------------------------------------


def built(case: Case) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model, small where its configuration lets it, with parameters that say something, and what it has run on.

    Raises:
        Exception: what the first attempt raised, if none succeeds.
    """
    if case.library == "timm":
        model = drawn(timm.create_model(case.name, num_classes=3))
        size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
        return calibrated(model, lambda: model(torch.randn(1, *size))), {}
    kind, failed = getattr(transformers, case.name), None
    for attempt in ATTEMPTS:
        own = next((own for name, own in OWN.items() if case.name.startswith(name)), {})
        labels = {"num_labels": 2} if case.task == "question answering" and "num_labels" in attempt else {}
        wanted = {**attempt, **labels, **(MIXED if case.task == SPEAKS and attempt else {}), **own}
        try:
            config = shrunk(kind.config_class, wanted, own, case.task == SPEAKS)
            with torch.device("meta"):
                count = sum(p.numel() for p in kind(config).parameters())
            if count > (PARAMETERS if case.task in TASKS.values() else FEWER):
                raise MemoryError(f"{count / 1e6:.0f} million parameters")
            model = drawn(kind(config))
            given = run(model, case.task)
            return calibrated(model, lambda model=model, given=given: model(**given)), given
        except Exception as error:
            failed = failed or error
    assert failed is not None
    raise failed


def shrunk(kind: Any, wanted: dict[str, Any], always: dict[str, Any] | None = None, mixed: bool = False) -> Any:
    """A small configuration; settings that it refuses are left as they are."""
    plain = kind()
    given = {name: value for name, value in wanted.items() if name in vars(plain) or has(plain, name)} | (always or {})
    if isinstance(vars(plain).get("image_size"), (list, tuple)) and "image_size" in given:
        given["image_size"] = [given["image_size"]] * 2
    for name, part in vars(plain).items():
        if getattr(part, "backbone", None):  # of another library, with published weights
            given |= {name: convolutions(part), "use_timm_backbone": False}
        elif hasattr(part, "to_dict") and hasattr(part, "model_type"):
            reads = {"is_decoder": True, "add_cross_attention": True} if name == "decoder" else {}
            stages = {"out_features": part.out_features} if getattr(part, "out_features", None) else {}
            given[name] = shrunk(type(part), {**wanted, **reads}, stages, mixed=mixed)
    if getattr(plain, "is_encoder_decoder", False):
        given["decoder_start_token_id"] = 2  # which configurations leave to the published weights
    if mixed and "vocab_size" in wanted:  # tokens for pictures have numbers in the small vocabulary
        high = [name for name, value in vars(plain).items() if name.endswith(NUMBERS) and is_high(name, value)]
        given |= {
            name: MARKS.setdefault(name, wanted["vocab_size"] - 1 - len(MARKS)) for name in high if name not in given
        }
    rope = vars(plain).get("rope_parameters")
    if (
        mixed and "head_dim" in wanted and isinstance(rope, dict) and "rope_theta" in rope
    ):  # not one for each kind of layer
        whole = {"partial_rotary_factor": 1.0} if "partial_rotary_factor" in rope else {}
        given["rope_parameters"] = {**rope, **whole, "mrope_section": [2, 1, 1]}
    layers = given.get("num_hidden_layers")
    for name in ("layer_types", "mlp_layer_types"):  # of every kind of layer one, as far as they go
        kinds = list(dict.fromkeys(vars(plain).get(name) or ()))
        if layers is not None and kinds and name not in wanted:
            given[name] = (kinds[-layers:] * layers)[:layers]
    while True:
        try:
            return kind(**given)
        except Exception as error:
            refused = next((name for name in list(given) if name in str(error)), None)
            refused = refused or next((name for name in list(given) if name not in vars(plain)), None)  # a property
            if refused is None:
                raise
            del given[refused]


def convolutions(part: Any) -> transformers.ResNetConfig:
    """A small network of convolutions that gives the same of its stages as the backbone of a configuration."""
    stages = [f"stage{number}" for number in getattr(part, "out_indices", None) or (4,) if number > 0]
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return transformers.ResNetConfig(**sizes, out_features=stages)


def has(config: Any, name: str) -> bool:
    """Whether there is a setting of that name, under another name in the configuration."""
    try:
        return hasattr(config, name)
    except Exception:  # some have one for each layer, which cannot be read like this
        return False


def drawn(model: nn.Module) -> nn.Module:
    """The model with parameters that were drawn anew: fresh ones are often zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            nn.init.normal_(parameter, std=0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("attn_mask_probs"):  # EoMT's masks, which are off at the end of a training
            buffer.zero_()
    return model.eval()


def calibrated(model: nn.Module, run: Callable[[], Any]) -> nn.Module:
    """The model with the statistics of one pass in its batch norms, as after a training.

    Without them what a picture changes drowns in rounding behind a few dozen convolutions.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = {name: value.clone() for name, value in model.state_dict().items()} if norms else {}
    torch.manual_seed(0)
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    try:
        with torch.no_grad():
            run() if norms else None
    except Exception:  # one value per channel has no variance
        model.load_state_dict(before) if norms else None
    return model.eval()


def is_high(name: str, value: Any) -> bool:
    """Whether a token's number is not one of the small vocabulary, or a picture's is left to the published weights."""
    return (isinstance(value, int) and value >= COUNTS["vocab_size"]) or (
        value is None and name.startswith("image_token")
    )


def run(model: Any, task: str) -> dict[str, Tensor]:
    """One forward pass, as its documentation has it: on token numbers alone, on a picture, on a second of sound.

    Returns:
        The arguments.

    Raises:
        Exception: what the model raises in the first of the ways in which it may be called.
    """
    failed: Exception | None = None
    try:
        for given in survey_inputs.ways(model, task):
            try:
                with torch.no_grad():
                    survey_inputs.check_output(model(**given))
            except Exception as error:
                failed = failed or error
            else:
                return given
    except Exception as error:
        failed = failed or error
    raise failed or ValueError("there is nothing to run it on")


# -- one case --------------------------------------------------------------------------------------------------------


def tried(case: Case) -> dict[str, Any]:
    """What becomes of one case, and how long it took."""
    begun = time.monotonic()
    return {**_tried(case), "seconds": round(time.monotonic() - begun, 1)}


def _tried(case: Case) -> dict[str, Any]:
    try:
        model, given = built(case)
    except Exception as error:
        return {"result": "not built", "reason": survey_inputs.told(error)}
    try:
        processor = survey_inputs.processor(model, given)
        explainer = attcat.Explainer(model, processor)
        attends = any(explainer.adapter.attends)
        if not attends:
            explainer = attcat.Explainer(explainer.adapter, method="cat")
        checks = check_adapter(model, processor, given if case.task in (SPEAKS, ANSWERS) else None)
        unwound(partial(prove, explainer.adapter, explainer.settings))  # what the explainer asks itself on first use
        survey_inputs.explain(explainer, case.task, given)
    except attcat.AttCATError as error:
        reason = str(error)
        return {"result": "no attention" if "computes no attention" in reason else "refused", "reason": reason}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{survey_inputs.told(error)} ({Path(where.filename).name}:{where.lineno})"
        return {"result": "foreign", "reason": reason}
    failed = [f"{check.name}: {check.measured:.2g}" for check in checks if check.passed is False]
    passed = sum(check.passed is True for check in checks)
    found = explainer.describe()
    return {
        "result": "fails" if failed else "works",
        "reason": "; ".join(failed),
        "found": found,
        "attends": attends,
        "checks": f"{passed} of {passed + len(failed)}",
    }


@dataclass(frozen=True)
class Child:
    """A forked process that works on a case and writes its result into a pipe."""

    case: Case
    process: int
    pipe: int

    @classmethod
    def of(cls, case: Case, work: Callable[[Case], dict[str, Any]]) -> Child:
        """Fork, and begin."""
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                os.close(read)
                resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
                signal.alarm(SECONDS)
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                os.dup2(quiet, 2)
                with os.fdopen(write, "w") as pipe:
                    json.dump(work(case), pipe)
            finally:
                os._exit(0)
        os.close(write)
        return cls(case, process, read)

    def result(self) -> dict[str, Any]:
        """What it found, waited for; what killed it is a result too."""
        with os.fdopen(self.pipe) as pipe:
            told = pipe.read()
        _, status = os.waitpid(self.process, 0)
        if told:
            found: dict[str, Any] = json.loads(told)
            return found
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "without a word"
        return {"result": "stopped", "reason": f"ended by {ended} (limits: {SECONDS} s, {BYTES >> 30} GB)"}


def results(wanted: list[Case], jobs: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Of each case, as they come, with so many children at a time."""
    running: dict[int, Child] = {}
    waiting = list(reversed(wanted))
    while waiting or running:
        while waiting and len(running) < jobs:
            child = Child.of(waiting.pop(), tried)
            running[child.pipe] = child
        for pipe in select.select(list(running), [], [])[0]:
            child = running.pop(pipe)
            yield child.case, child.result()


# -- the record ------------------------------------------------------------------------------------------------------


def code() -> str:
    """The version of what is surveyed, and how: a fingerprint of the sources and the libraries."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + Path(survey_inputs.__file__).read_bytes())
    for folder in ("attcat", "adapters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(" ".join(version(name) for name in survey_page.LIBRARIES).encode())
    return digest.hexdigest()[:12]


def main() -> None:
    """Survey, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names that hold one of these words, separated by commas")
    parser.add_argument("--task", default="", help="tasks whose names hold one of these")
    parser.add_argument("--unless-works", action="store_true", help="only what did not work when it was last tried")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--record", type=Path, default=ROOT / "out" / "survey.jsonl")
    parser.add_argument("--write", action="store_true", help="write the pages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.CRITICAL)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    options.record.parent.mkdir(parents=True, exist_ok=True)
    now = code()
    lines = options.record.read_text().splitlines() if options.record.exists() else []
    last = {one["key"]: one for one in map(json.loads, lines)}
    words = options.only.lower().split(",")
    wanted = [
        case
        for case in cases()
        if any(word in case.name.lower() for word in words)
        and any(word in case.task for word in options.task.split(","))
        and (case.key not in last or last[case.key]["code"] != now)
        and not (options.unless_works and case.key in last and last[case.key]["result"] == "works")
    ]
    for done, (case, found) in enumerate(results(wanted, options.jobs), 1):
        last[case.key] = {"key": case.key, **asdict(case), "code": now, **found}
        with options.record.open("a") as file:
            print(json.dumps(last[case.key]), file=file)
        reason = " ".join(found["reason"].split())[:140]
        print(f"{done}/{len(wanted)} {found['result']:12} {case.name:50} {reason}", flush=True)
    known = {case.key for case in cases()}
    rows = [one for key, one in last.items() if key in known]
    if options.write:
        survey_page.write([one for one in rows if one["code"] == now], ROOT / "docs")
    print(json.dumps(Counter(one["result"] for one in rows)))


if __name__ == "__main__":
    sys.exit(main())
