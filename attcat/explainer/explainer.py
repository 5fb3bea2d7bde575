"""The two-line call: `Explainer(model, processor)(input)`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, overload

from torch import Tensor, nn

from ..capture.unwound import unwound
from ..errors import InputError
from ..explanation import Explanation, Generation
from ..methods import DEFAULT, Quantity
from ..model import Adapter, Encoding, TextAdapter
from ..model.discovered import adapter_of
from ..model.writing import is_chat, read_chat
from ..render import progress
from ..targets import Target, count
from ..trace import Hidden, Queries
from . import windows, writing, zero_shot
from .batch import BatchExplainer
from .proof import prove
from .rows import Input, aimed, batches, column, shaped, side_by_side, targets_by_row
from .settings import Settings


class CallOptions(TypedDict, total=False):
    """The options of a call, as `Explainer.__call__` describes them."""

    token: Any
    truncation: bool
    window: bool | int
    through_tower: bool


class Explainer:
    """Explain the predictions of one model.

        explainer = attcat.Explainer(model, tokenizer)
        explainer("A gripping, beautifully acted film.").show()

    Args:
        model: a classifier of a supported family, or another transformer, which is then inspected in a few forward passes;
            it is left exactly as it is. Also a transformers pipeline or a cross-encoder, which bring their own processor;
            or the `adapter` of another Explainer, which saves finding it again.
        processor: its tokenizer, image processor or transform. None for a timm model (its data configuration is used), or
            if inputs are ready-made model arguments.
        method: name of the attribution method, see `attcat.METHODS`; `name+rule` names the rule as well, and options may
            follow, as in `oddscat:samples=8`. By default OddsCAT, which reads no attention weights and so runs
            wherever a gradient does.
        rule: gradient rule, one of `attcat.RULES`. By default that of the method: graded for OddsCAT, libra for AttCAT and CAT
            (`plain` gives the published scores), plain for most other methods.
        hidden: read the blocks' `input` (the authors' code) or `output` (the paper's figure).
        queries: a token's weight is the attention that it receives from all queries (`mean`) or from the tokens that the
            head reads (`pooled`).
        batch_size: how many inputs of a list share a forward pass; by default as many as make a few thousand tokens.
        completeness: also measure what the bias terms contribute, so that `Explanation.completeness` is known.
        quantity: what is explained of a class: its `logit`, its `log-odds` against all other classes, its `probability` or
            `log-probability`. By default that of the method: the log-odds for OddsCAT, the logit for all others, and of words of
            a vocabulary, whose rivals are made likely by the same context.
        **options: the method's own options, as `steps=20` of `integrated_gradients`, or the rule's, as `beta=0.5` of `graded`.

    Raises:
        UnsupportedModelError: if no adapter serves the model, and its forward pass does not tell what one would say.
        OptionError: if a method, rule or option does not exist.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        method: str | None = None,
        rule: str | None = None,
        hidden: Hidden = "input",
        queries: Queries = "mean",
        batch_size: int | None = None,
        completeness: bool = False,
        quantity: Quantity | None = None,
        **options: Any,
    ) -> None:
        self.adapter: Adapter = unwound(partial(adapter_of, model, processor))
        self._side = False  # whether only the adapter's own tower is explained
        self.settings = Settings.of(
            DEFAULT if method is None else method,
            rule,
            hidden=hidden,
            queries=queries,
            batch_size=batch_size,
            completeness=completeness,
            quantity=quantity,
            own=options,
        )

    def like(self, model: nn.Module | None = None, **changes: Any) -> Explainer:
        """The same adapter, method and options for another model of the same class, or with other settings.

        Args:
            model: e.g. a copy with other weights; by default the same model.
            **changes: as `Explainer` takes them, or fields of `Settings`; another `method` starts with its own options as they
                usually are, and, if it is given by its name, with its own rule and quantity.

        Raises:
            OptionError: if a method, rule or option does not exist.
        """
        if isinstance(changes.get("method"), str):
            return self._with(model, self.settings.of_name(**changes))
        if "method" in changes:
            changes = {"own": {}, **({"quantity": None, "usual": None} if self.settings.usual else {}), **changes}
        return self._with(model, self.settings.changed(changes))

    def _with(self, model: nn.Module | None, settings: Settings) -> Explainer:
        other = copy(self)
        other.adapter = self.adapter if model is None else self.adapter.like(model)
        other.settings = settings
        return other

    @property
    def _towers(self) -> tuple[Adapter, ...]:
        return (self.adapter,) if self._side else self.adapter.towers

    @property
    def sides(self) -> tuple[Explainer, ...]:
        """One Explainer for each Explanation that an input gets, as metrics expect.

        For a model that compares a picture with a text, one explains the picture and one the text; otherwise it is this one.
        """
        if len(self._towers) == 1:
            return (self,)
        return tuple(self._of(tower) for tower in self.adapter.towers)

    def _of(self, tower: Adapter) -> Explainer:
        other = copy(self)
        other.adapter, other._side = tower, True
        return other

    def describe(self) -> str:
        """What is known about the model, or was found by inspecting it: blocks, width, tokens, what the head reads."""
        return self.adapter.describe()

    def __repr__(self) -> str:
        settings = self.settings.of_order(self.adapter.causal)
        options = ", ".join(f"{name}={value}" for name, value in settings.options.items())
        method = f"{self.settings.method.name} ({options})" if options else self.settings.method.name
        return f"<Explainer of {type(self.adapter.model).__name__}, {self.adapter.family}: {method}>"

    # One input gives one Explanation, a list gives a list; several targets give a list for each input.
    @overload
    def __call__(
        self, inputs: list[Any], target: Any = ..., *, top_k: int, **options: Unpack[CallOptions]
    ) -> list[list[Explanation]]: ...
    @overload
    def __call__(
        self, inputs: Input, target: None = ..., *, top_k: int, **options: Unpack[CallOptions]
    ) -> list[Explanation]: ...
    @overload
    def __call__(
        self, inputs: list[Any], target: Literal["all"], **options: Unpack[CallOptions]
    ) -> list[list[Explanation]]: ...
    @overload
    def __call__(self, inputs: list[Any], target: Any = ..., **options: Unpack[CallOptions]) -> list[Explanation]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # "all" is a string, too
        self, inputs: Input, target: Literal["all"] | list[Any], **options: Unpack[CallOptions]
    ) -> list[Explanation]: ...
    @overload
    def __call__(
        self, inputs: Any, target: Any = ..., *, answer: str | Sequence[int] | Tensor, contrast: bool = ...
    ) -> Generation: ...
    @overload
    def __call__(
        self, inputs: str, *, labels: Sequence[str], template: str = ..., **options: Unpack[CallOptions]
    ) -> list[Explanation]: ...
    @overload
    def __call__(
        self, inputs: list[str], *, labels: Sequence[str], template: str = ..., **options: Unpack[CallOptions]
    ) -> list[list[Explanation]]: ...
    @overload
    def __call__(self, inputs: Input, target: Target = ..., **options: Unpack[CallOptions]) -> Explanation: ...
    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        token: Any = None,
        top_k: int | None = None,
        truncation: bool = False,
        window: bool | int = False,
        answer: Any = None,
        contrast: bool = False,
        labels: Sequence[str] | None = None,
        template: str = zero_shot.TEMPLATE,
        through_tower: bool = False,
    ) -> Any:
        """Explain one input, or a list of them.

        Args:
            inputs: a text, a pair of texts (tuple), a picture (path, PIL image, array, tensor), a chat (a list of messages,
                through the tokenizer's template), a picture and a text (tuple), model arguments (a dict with `input_ids` or
                `pixel_values`), or a list of these, also as a column: a pandas Series, an array of strings, one of `datasets`.
                A dict that holds several rows gives a list.
            target: None for the predicted class; a class index; a label; two of them in a tuple for a contrast (why the
                first rather than the second); a function from the model's output to one number per row. For a list of
                inputs also a list with one of these each. For one input a list of these, or `"all"`, gives a list of
                explanations, which share the forward pass. For a language model a token of its vocabulary, as `" Paris"`;
                in question answering an answer, by its text or as a slice of the context's characters.
            token: whose prediction is explained, for taggers and language models: a word of the text, its number among
                the words, or a slice of characters. By default a masked model's `[MASK]`, and what follows a causal
                model's text. For a list of inputs also one each; for one input a list gives a list.
            top_k: explain the most probable classes, in order; gives a list for each input.
            truncation: accept that a text is cut to what the model takes; the Explanation records how much.
            window: read a text that is longer than the model takes in overlapping windows (of so many tokens, if a number is
                given), see `attcat.explainer.windows`. Of a pair the second text is cut.
            answer: for a causal language model what follows the input, a text (character for character, with the space in
                front) or token numbers: why would the model write it? The input is then a prompt: a text, a chat (a list of
                messages, `[{"role": "user", "content": "..."}]`), or model arguments. `target` stands for every written
                token, or is a list with one for each (None for the token itself).
            contrast: with an answer: hold each token against the runner-up, the most probable other one.
            labels: for a model of natural language inference, classes of your own, as in transformers' zero-shot pipeline. For
                each it is explained why the text entails the hypothesis, which is the second text of a pair.
            template: the hypothesis, with `{}` where a label goes.
            through_tower: of a picture and a text in one sequence, carry the scores of the picture's tokens on through the vision
                tower to its own patches, which may be finer, see `attcat.explainer.tower`. Scores are then not by block.

        Returns:
            With an answer a `Generation`; with labels a list, one Explanation for each.
            An Explanation; or a list of them, for a list of inputs or of targets (for both, a list of lists). A model that
            compares a picture and a text, as `(picture, text)`, gives an `ImageText` of two in place of each.

        Raises:
            InputError: if an input cannot be explained (empty, too long, not a picture, ...).
            ProcessorError: if the processor does not fit the model.
            TargetError: if the target does not exist.
            OptionError: if there is no tower to carry scores through.
            CaptureError: if the forward pass did not show what the method needs.
            UnsupportedModelError: if a model without an adapter fails the checks of its first use, see `attcat.explainer.proof`.
        """
        inputs = column(inputs)
        if labels is not None:
            if target is not None or answer is not None or top_k is not None:
                raise InputError("labels= explains the entailment of each label: leave out target, top_k and answer")
            entailed = zero_shot.entailment(self.adapter)
            options: CallOptions = {
                "token": token,
                "truncation": truncation,
                "window": window,
                "through_tower": through_tower,
            }
            texts = inputs if isinstance(inputs, list) else [inputs]
            each = [self(zero_shot.hypotheses(text, labels, template), entailed, **options) for text in texts]
            return each if isinstance(inputs, list) else each[0]
        for tower in self._towers:
            unwound(partial(prove, tower, self.settings))
        if answer is not None:
            _check_written(token, top_k, truncation, window, through_tower)
            side = BatchExplainer(self.adapter, self.settings)
            pairs = writing.many(inputs, answer)
            if pairs is None:
                return writing.generation(side, inputs, answer, target, contrast)
            return [writing.generation(side, *pair, target, contrast) for pair in pairs]
        if contrast:
            raise InputError("contrast=True holds an answer's tokens against the runners-up: give answer=")
        sides = [BatchExplainer(tower, self.settings, through_tower) for tower in self._towers]
        found = [unwound(partial(_explain, side, inputs, target, token, top_k, truncation, window)) for side in sides]
        return found[0] if len(found) == 1 else side_by_side(*found)

    def generate(
        self, prompt: Any, target: Any = None, *, max_new_tokens: int, contrast: bool = False, **options: Any
    ) -> Generation:
        """Let a causal language model write, and explain what it wrote.

        Args:
            prompt: a text, a chat (a list of messages, through the tokenizer's own template), or model arguments.
            target: what is explained of every written token, see `__call__`; by default the token itself.
            max_new_tokens: the most tokens that are written.
            contrast: hold each token against the runner-up, the most probable other one.
            **options: of transformers' `generate`, as `do_sample=True`.

        Raises:
            UnsupportedModelError: if the model does not write.
            InputError: if the prompt cannot be read, or prompt and answer are longer than the model takes.
            ProcessorError: if there is no tokenizer, or for a chat no template.
        """
        for tower in self._towers:
            unwound(partial(prove, tower, self.settings))
        side = BatchExplainer(self.adapter, self.settings)
        return writing.generate(side, prompt, max_new_tokens, target, contrast, options)


def _check_written(
    token: Any, top_k: int | None, truncation: bool, window: bool | int, through_tower: bool = False
) -> None:
    given = {
        "token": token,
        "top_k": top_k,
        "truncation": truncation or None,
        "window": window or None,
        "through_tower": through_tower or None,
    }
    wrong = [f"{name}=" for name, value in given.items() if value is not None]
    if wrong:
        raise InputError(f"with an answer every written token is explained: leave out {', '.join(wrong)}")


def _explain(
    side: BatchExplainer,
    inputs: Any,
    target: Any,
    token: Any,
    top_k: int | None,
    truncation: bool,
    window: bool | int,
) -> Any:
    many = isinstance(inputs, list) and not side.adapter.is_one(inputs) and not _is_chat(side, inputs)
    if side.adapter.head.aims and token is None:
        token, target = aimed(side.adapter.head, target)
    if isinstance(token, list) and not many:
        inputs, many = [inputs] * len(token), True
    listed: list[Any] = inputs if many else [inputs]
    if window is not False:
        if any(_is_chat(side, value) for value in listed):
            raise InputError("windows are of a text: explain a chat without window")
        return _windowed(
            side, listed, target, many, top_k, token, truncation, None if window is True else count("window", window)
        )
    encodings: Iterable[tuple[list[int], Encoding]]
    if any(isinstance(value, Mapping) or _is_chat(side, value) for value in listed):
        encodings = list(_ready_made(side, listed, truncation))  # a dict may hold several rows
        rows = sum(len(positions) for positions, _ in encodings)
    else:
        encodings, rows = _batches(side, listed, truncation), len(listed)
    many = many or rows > 1
    targets, several = targets_by_row(target, rows, many, top_k)
    tokens = token if isinstance(token, list) else [token] * rows
    if len(tokens) != rows:
        raise InputError(f"{len(tokens)} tokens for {rows} inputs: give one, or one per input")
    found: list[list[Explanation]] = [[] for _ in range(rows)]
    with progress(rows) as tick:
        for positions, encoding in encodings:
            pointed = side.adapter.head.point(encoding, [tokens[i] for i in positions])
            explained = side.explain(pointed, [targets[i] for i in positions])
            for row, explanations in zip(positions, explained, strict=True):
                found[row] = explanations
            tick(len(positions))
    return shaped(found, several, many)


def _is_chat(side: BatchExplainer, value: Any) -> bool:
    """Whether a value is a chat for a model that reads one sequence of tokens, and whose adapter does not take chats itself."""
    adapter = side.adapter
    return isinstance(adapter, TextAdapter) and adapter.streams is None and not adapter.is_one(value) and is_chat(value)


def _windowed(
    side: BatchExplainer,
    inputs: list[Any],
    target: Any,
    many: bool,
    top_k: int | None,
    token: Any,
    truncation: bool,
    size: int | None,
) -> Any:
    """Each text on its own, in windows."""
    windows.check(side.adapter, inputs, token, truncation)
    targets, several = targets_by_row(target, len(inputs), many, top_k)
    found = []
    with progress(len(inputs)) as tick:
        for value, wanted in zip(inputs, targets, strict=True):
            found.append(windows.explain(side, value, wanted, size))
            tick(1)
    return shaped(found, several, many)


def _batches(side: BatchExplainer, inputs: list[Any], truncation: bool) -> Iterator[tuple[list[int], Encoding]]:
    """Batches, and which rows of the result they hold: inputs of one kind and of similar length together."""
    adapter, apart = side.adapter, dict[Hashable, list[int]]()
    size = 1 if side.through_tower or not adapter.can_batch else side.settings.batch_size
    for place, value in enumerate(inputs):
        apart.setdefault(None if size == 1 else adapter.alike(value), []).append(place)
    for kind in apart.values():
        for batch in batches([adapter.cost(inputs[i]) for i in kind], size):
            rows = [kind[i] for i in batch]
            yield rows, adapter.encode([inputs[i] for i in rows], truncation=truncation)


def _ready_made(side: BatchExplainer, inputs: list[Any], truncation: bool) -> Iterator[tuple[list[int], Encoding]]:
    """Model arguments are used as they are, one dict at a time."""
    row = 0
    for value in inputs:
        if _is_chat(side, value):
            assert isinstance(side.adapter, TextAdapter)
            encoding = read_chat(side.adapter, value)
        elif isinstance(value, Mapping):
            encoding = side.adapter.encode_arguments(value)
        else:
            encoding = side.adapter.encode([value], truncation=truncation)
        count = 1 if side.adapter.head.one_input else len(encoding.tokens)
        yield list(range(row, row + count)), encoding
        row += count
