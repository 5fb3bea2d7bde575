"""Which models of transformers and timm can be explained: everything in their lists that can be built small.

    python tests/benchmarks/survey.py [--only WORD] [--again] [--record FILE] [--write]

Every class with a head that AttCAT explains is built from a small configuration with random parameters and given to
`attcat.testing.check_adapter`, each in a forked child with a time limit, so that no model can stop the survey. What was found
is kept in a record and not asked again for the same version of the code; `--write` makes docs/survey.md of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import nn

import attcat
from attcat.testing import check_adapter

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "survey.md"
SECONDS, BYTES = 120, 8 << 30
"""The most that a case may take."""

TASKS = {
    "ForSequenceClassification": "text classification",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForMaskedLM": "masked language modeling",
    "ForCausalLM": "causal language modeling",
    "LMHeadModel": "causal language modeling",
    "ForImageClassification": "image classification",
}
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "embed_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"),
        4,
    ),
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "d_inner", "hidden_dim", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "vocab_size": 340,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_local_experts": 2,
    "num_experts": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}
"""What configurations are given, as far as they have a setting of that name; also those inside others."""


@dataclass(frozen=True)
class Case:
    """One model to be tried."""

    library: str
    name: str
    task: str

    @property
    def key(self) -> str:
        """In the record."""
        return f"{self.library}.{self.name}"


def cases() -> Iterator[Case]:
    """Every class of transformers with a head, and a small model of each of timm's modules."""
    for name in sorted(dir(transformers)):
        task = next((task for end, task in TASKS.items() if name.endswith(end)), None)
        if task is not None and not name.startswith(("Auto", "TF", "Flax")):
            yield Case("transformers", name, task)
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
            yield Case("timm", min(names, key=lambda n: (rank[n], len(n))), "image classification")


def built(case: Case) -> nn.Module:
    """The model, small where its configuration lets it, with parameters that say something."""
    torch.manual_seed(0)
    if case.library == "timm":
        model: nn.Module = timm.create_model(case.name, num_classes=3).eval()
    else:
        kind = getattr(transformers, case.name)
        config = shrunk(kind.config_class)
        if case.name.endswith("ForQuestionAnswering"):
            config.num_labels = 2  # a start and an end
        model = kind(config).eval()
    if sum(p.numel() for p in model.parameters()) > 2e8:
        raise MemoryError("more than 200 million parameters")
    for parameter in model.parameters():
        if parameter.is_floating_point():
            nn.init.normal_(parameter, std=0.1)
    return model


def shrunk(kind: Any) -> Any:
    """A small configuration; settings that it refuses are left as they are."""
    plain = kind()
    given = {name: value for name, value in SMALL.items() if hasattr(plain, name)}
    for name, part in vars(plain).items():
        if hasattr(part, "to_dict") and hasattr(part, "model_type"):
            given[name] = shrunk(type(part))
    if getattr(plain, "is_encoder_decoder", False):
        given["decoder_start_token_id"] = 2  # which configurations leave to the published weights
    while True:
        try:
            return kind(**given)
        except Exception as error:
            refused = next((name for name in list(given) if name in str(error)), None)
            if refused is None:
                raise
            del given[refused]


def tried(case: Case) -> dict[str, Any]:
    """What becomes of one case."""
    try:
        model = built(case)
    except Exception as error:
        return {"result": "not built", "reason": f"{type(error).__name__}: {error}"}
    try:
        checks = check_adapter(model)
        said = attcat.Explainer(model).describe()
    except attcat.AttCATError as error:
        return {"result": "refused", "reason": str(error)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"result": "foreign", "reason": f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"}
    failed = [f"{check.name}: {check.measured:.2g}" for check in checks if check.passed is False]
    return {"result": "fails" if failed else "works", "reason": "; ".join(failed), "found": said}


def in_a_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of some work, done in a forked child; what kills the child is a result too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
            signal.alarm(SECONDS)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            with os.fdopen(write, "w") as pipe:
                json.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if told:
        found: dict[str, Any] = json.loads(told)
        return found
    ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "without a word"
    return {"result": "stopped", "reason": f"ended by {ended} (limits: {SECONDS} s, {BYTES >> 30} GB)"}


def code() -> str:
    """The version of what is surveyed: a fingerprint of the sources."""
    digest = hashlib.sha256()
    for folder in ("attcat", "adapters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def page(found: list[dict[str, Any]]) -> str:
    """The record as a page: counts by task, then every model in alphabetical order."""
    lines = [
        "# Survey of models",
        "",
        "Every model class of transformers with a head that AttCAT explains, and one model of each module of timm, built",
        "small with random parameters and checked by `attcat check`. A model that *works* kept every promise; one that *fails*",
        "ran, and a check saw what is wrong; *refused* models raise an error with this reason. Made by",
        "",
        "    python tests/benchmarks/survey.py --write",
        "",
        f"({date.today()}; transformers {version('transformers')}, timm {version('timm')}, torch {version('torch')})",
        "",
        "| task | built | work | fail | refused | other |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault("timm" if one["library"] == "timm" else one["task"], []).append(one)
    for task, rows in sorted(groups.items()):
        count = {
            result: sum(row["result"] == result for row in rows)
            for result in ("works", "fails", "refused", "not built")
        }
        there = len(rows) - count["not built"]
        other = there - count["works"] - count["fails"] - count["refused"]
        lines.append(f"| {task} | {there} | {count['works']} | {count['fails']} | {count['refused']} | {other} |")
    lines += ["", "| model | task | result | reason |", "|---|---|---|---|"]
    for one in sorted(found, key=lambda one: (one["name"].lower(), one["library"])):
        reason = " ".join(one["reason"].split())[:300].replace("|", "\\|")
        lines.append(f"| `{one['name']}` ({one['library']}) | {one['task']} | {one['result']} | {reason} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Survey, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names that hold one of these words, separated by commas")
    parser.add_argument("--again", action="store_true", help="also what was found before")
    parser.add_argument("--record", type=Path, default=ROOT / "out" / "survey.jsonl")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.CRITICAL)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    options.record.parent.mkdir(parents=True, exist_ok=True)
    now = code()
    lines = options.record.read_text().splitlines() if options.record.exists() else []
    known = {one["key"]: one for one in map(json.loads, lines) if one["code"] == now}
    words = options.only.lower().split(",")
    for case in cases():
        if not any(word in case.name.lower() for word in words) or (case.key in known and not options.again):
            continue
        found = {"key": case.key, **asdict(case), "code": now, **in_a_child(lambda case=case: tried(case))}  # type: ignore[misc]
        known[case.key] = found
        with options.record.open("a") as file:
            print(json.dumps(found), file=file)
        print(f"{found['result']:10} {case.name:50} {' '.join(found['reason'].split())[:140]}", flush=True)
    if options.write:
        PAGE.write_text(page(list(known.values())), encoding="utf-8")
    print(
        json.dumps(
            {r: sum(one["result"] == r for one in known.values()) for r in {o["result"] for o in known.values()}}
        )
    )


if __name__ == "__main__":
    sys.exit(main())
