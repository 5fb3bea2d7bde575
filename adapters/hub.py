"""Load a model with its head, and its processor, from a folder, or from the Hugging Face hub.

Either way it comes down to a folder: files from the hub are downloaded into its cache first. Only configuration, tokenizer and
safetensors files are ever requested: neither a pickle nor a repository's own code can run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import nn

from attcat.errors import LoadError, UnsupportedModelError

CONFIG = "config.json"
FILES = [CONFIG, "*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
TEXT, IMAGE, BOTH = "text", "image", "both"
LONGEST = 200
"""Characters of a name; owners and models on the hub have fewer."""
KINDS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", TEXT),
    "ForTokenClassification": ("AutoModelForTokenClassification", TEXT),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", TEXT),
    "ForMultipleChoice": ("AutoModelForMultipleChoice", TEXT),
    "ForMaskedLM": ("AutoModelForMaskedLM", TEXT),
    "ForCausalLM": ("AutoModelForCausalLM", TEXT),
    "LMHeadModel": ("AutoModelForCausalLM", TEXT),
    "ForImageClassification": ("AutoModelForImageClassification", IMAGE),
    "ForObjectDetection": ("AutoModelForObjectDetection", IMAGE),
    "ForSemanticSegmentation": ("AutoModelForSemanticSegmentation", IMAGE),
    "ForInstanceSegmentation": ("AutoModelForInstanceSegmentation", IMAGE),
    "ForUniversalSegmentation": ("AutoModelForUniversalSegmentation", IMAGE),
    "ForSegmentation": ("AutoModelForUniversalSegmentation", IMAGE),
    "ForConditionalGeneration": ("AutoModelForImageTextToText", BOTH),
}
"""What the name of a model with a head contains, the class that loads it, and what it takes."""


def load(
    name: str | os.PathLike[str], *, revision: str | None = None, processor: str | None = None
) -> tuple[nn.Module, Any]:
    """Load a model in evaluation mode, and its processor.

    Args:
        name: a folder written by transformers' `save_pretrained` or timm's `save_for_hf`, or a hub id such as
            `timm/deit_tiny_patch16_224.fb_in1k`.
        revision: which commit, branch or tag of a model on the hub; None for the newest. A commit pins the model: the same
            files are loaded, whatever is published later.
        processor: the folder or hub id of its tokenizer or image processor, if that is elsewhere.

    Returns:
        The model, and its tokenizer or image processor; None for timm, whose models carry their data configuration.

    Raises:
        LoadError: if there is no such folder, the hub cannot be reached, a package is missing, or the files do not make
            a whole model.
        UnsupportedModelError: if the model has no head that can be explained.
    """
    folder = _local(name)
    if folder is not None and revision is not None:
        raise LoadError(f"{name} is a folder here, which has no revision {revision!r}: give a hub id, or leave it out")
    config = _read_config(folder or _download(str(name), [CONFIG], revision), str(name))
    loader = _loader(config, str(name))
    beside = None if processor is None else _local(processor) or _download(processor, FILES)
    return loader(folder or _download(str(name), FILES, revision), config, str(name), beside)


# -- from a name to a folder -----------------------------------------------------------------------------------------


def _local(name: str | os.PathLike[str]) -> Path | None:
    """The folder, or None if the name can only be a hub id."""
    text = str(name)
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # ~nobody
        raise LoadError(f"no such folder: {text!r}: {error}") from error
    if text.strip() and os.path.isdir(path):
        return path
    if os.path.isfile(path):
        raise LoadError(f"{path} is a file: give the folder that holds {CONFIG} and the weights")
    if (
        not text.strip()
        or text.startswith((".", "~", "/"))
        or text.endswith(os.sep)
        or "\\" in text
        or text.count("/") > 1
        or len(text) > LONGEST
        or not text.isprintable()
    ):
        raise LoadError(
            f"no such folder: {_shortened(text)}; give a folder with {CONFIG}, or a hub id such as owner/name"
        )
    return None


def _shortened(text: str) -> str:
    return ascii(text) if len(text) <= LONGEST else f"{text[:40]!a}... ({len(text)} characters)"


def _download(name: str, patterns: list[str], revision: str | None = None) -> Path:
    """The matching files of the top folder on the hub, in the cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise _missing("the hub", "transformers") from error
    either = f"no folder {name!r} here, and"
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"], revision=revision))
    except HFValidationError as error:
        raise LoadError(
            f"{either} that is not a hub id: give a folder with {CONFIG}, or a hub id such as owner/name"
        ) from error
    except GatedRepoError as error:
        raise LoadError(
            f"{name} requires its licence to be accepted: do so on its hub page, then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{name} has no revision {revision!r}: give a commit, branch or tag of it") from error
    except RepositoryNotFoundError as error:
        raise LoadError(
            f"{either} no such model on the hub: check the name (timm's models are called timm/NAME)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise LoadError(
            f"{either} the hub cannot be reached (nor was it downloaded before): "
            "check the connection, or give a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise LoadError(f"{either} the hub refused: {_first_line(error)}; try again, or give a local folder") from error


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LoadError(
            f"{name} holds no {CONFIG}: give a folder written by save_pretrained (transformers) or save_for_hf (timm)"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path} is not a model configuration: it holds a {type(config).__name__}")
    return config


# -- from a folder to a model ----------------------------------------------------------------------------------------


def _loader(config: dict[str, Any], name: str) -> Callable[..., tuple[nn.Module, Any]]:
    """Which library made the folder; the wrapper of transformers writes both keys, so its own comes first."""
    kinds = config.get("architectures") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise LoadError(f"{CONFIG} of {name} is damaged: `architectures` is {kinds!r}, expected a list of class names")
    if kinds:
        if _kind(config) is None:
            raise UnsupportedModelError(
                f"{name} holds a {', '.join(kinds)}, which has no head to explain: give a model ...{', ...'.join(KINDS)}"
            )
        return _load_transformers
    if "architecture" in config:
        return _load_timm
    raise LoadError(
        f"{CONFIG} of {name} has neither `architectures` (transformers) nor `architecture` (timm): save the model again"
    )


def _kind(config: dict[str, Any]) -> tuple[str, str] | None:
    """The class that loads a model, and what it takes; models of the same name that translate have no part that sees."""
    found = (kind for name in config["architectures"] for part, kind in KINDS.items() if part in name)
    return next((kind for kind in found if kind[1] != BOTH or "vision_config" in config), None)


def _load_transformers(
    folder: Path, config: dict[str, Any], name: str, beside: Path | None = None
) -> tuple[nn.Module, Any]:
    try:
        import transformers
    except ImportError as error:
        raise _missing(name, "transformers") from error
    if "auto_map" in config and config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise LoadError(
            f"{name} brings its own code, which is never run here: "
            "load it in Python, and use attcat.Explainer(model, processor)"
        )
    loader, takes = _kind(config) or ("", "")
    is_text, model_class = takes != IMAGE, getattr(transformers, loader)
    processors = {
        TEXT: transformers.AutoTokenizer,
        IMAGE: transformers.AutoImageProcessor,
        BOTH: transformers.AutoProcessor,
    }
    processor_class: Any = processors[takes]
    _check_weights(folder, name)
    options = {"local_files_only": True, "trust_remote_code": False}
    with _quiet(), _told(name, "the model"):
        model, report = model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise LoadError(
            f"{name} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}, ...): "
            "was it saved with its head?"
        )
    beside = beside or folder
    if is_text and not any((beside / file).exists() for file in _TOKENIZERS):
        where = name if beside == folder else beside
        raise LoadError(
            f"{where} holds no tokenizer ({', '.join(_TOKENIZERS)}): save it there with tokenizer.save_pretrained"
        )
    names = {TEXT: "the tokenizer", IMAGE: "the image processor", BOTH: "the processor"}
    with _quiet(), _told(name, names[takes]):
        return model.eval(), processor_class.from_pretrained(beside, **options)


_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def _load_timm(folder: Path, config: dict[str, Any], name: str, beside: Path | None = None) -> tuple[nn.Module, None]:
    try:
        import timm
    except ImportError as error:
        raise _missing(name, "timm") from error
    weights = _check_weights(folder, name)
    if len(weights) > 1:
        raise LoadError(f"{name} holds {len(weights)} weight files ({', '.join(w.name for w in weights)}): keep one")
    if config.get("num_classes", 1) == 0:
        raise UnsupportedModelError(
            f"{name} has num_classes = 0, so it is not a classifier: give a model with its classification head"
        )
    # `file` is read by its suffix: timm's own search, which prefers some pickles, never starts.
    overlay = {"source": "", "file": str(weights[0]), "custom_load": False}
    with _quiet(), _told(name, "the model"):
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, pretrained_cfg_overlay=overlay)
    return model.eval(), None


def _check_weights(folder: Path, name: str) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    plain = [path for path in found if path.name == "model.safetensors"]
    if found:
        return plain or found
    others = sorted(
        path.name for path in folder.iterdir() if any(fnmatch(path.name, p) for p in ("*.bin", "*.pt", "*.pth"))
    )
    if others:
        raise LoadError(f"{name} holds its weights in {others[0]}, which could run code: save them as safetensors")
    raise LoadError(f"{name} holds no weights as *.safetensors: save the model with safetensors, or give another one")


# -- errors in one line ----------------------------------------------------------------------------------------------


def _missing(name: str, package: str) -> LoadError:
    return LoadError(f"{name} needs {package}, which is not installed: pip install 'attcat[{package}]'")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Turn the libraries' errors about a folder's content into one line."""
    try:
        yield
    except Exception as error:  # whatever a library makes of broken files
        raise LoadError(f"{what} in {name} cannot be loaded: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars, reports and advice, and restore them afterwards; errors are still raised."""
    import logging
    import sys
    import warnings

    loggers = [logging.getLogger(package) for package in ("transformers", "timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    progress: Any = sys.modules.get("transformers.utils.logging")
    shown = progress is not None and progress.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        if shown:
            progress.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            progress.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
