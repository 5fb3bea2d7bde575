"""The pages of the survey: docs/architectures.md, and docs/architectures.html with a search field."""

from __future__ import annotations

import itertools
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attcat.render.html import escape, framed
from attcat.testing import CHECKS

LIBRARIES = ("transformers", "timm", "torch", "torchvision")
FLOORS = {
    "text classification": 90,
    "token classification": 85,
    "question answering": 85,
    "multiple choice": 85,
    "masked language modeling": 85,
    "causal language modeling": 85,
    "image classification (timm)": 85,
}
"""Of each task the share, in percent, of the models with attention that has to work."""
NOTES = {
    "BigBird": 'loaded with `attention_type="original_full"`; its block-sparse attention, the default, is refused',
}
"""What else has to be known of a family."""
RESULTS = ("works", "refused", "fails", "no attention", "not built")
SHORT = {
    "text classification": "text",
    "token classification": "tokens",
    "question answering": "answers",
    "multiple choice": "choice",
    "masked language modeling": "masked",
    "causal language modeling": "causal",
    "image classification": "image",
    "image classification (timm)": "image",
    "audio classification": "audio",
    "video classification": "video",
    "object detection": "boxes",
    "semantic segmentation": "pixels",
    "instance segmentation": "instances",
    "zero-shot image classification": "image-text pairs",
    "zero-shot object detection": "image-text boxes",
    "visual question answering": "image-text answers",
    "image and text to text": "image-text writing",
    "sequence to sequence": "writing",
    "speech to text": "speech writing",
    "next sentence prediction": "next sentence",
}
"""What a head is called in the table."""

INTRODUCTION = """# Architectures

Every class in transformers' lists of models for the tasks below, and one model of each module of timm (its smallest): {count} in
all. Each was built small from its configuration, with random parameters, and has to run by itself; then `attcat check` asked it
for every promise that can be asked of it, and the explainer for what it asks on first use. Models that write explained an answer,
detectors a box, and segmentation a pixel. Made by `make survey` ({date}; {versions}).

**[architectures.html](architectures.html) is the same with a search field**, a line for each class.

- **works**: every check passed (listed below). *(`cat`)*: it does not attend over all tokens (windows, pyramids, blocks of
  tokens, recurrent layers, Fourier transforms), so that there are no attention weights: `method="cat"`, `"input_x_gradient"` and
  the methods that remove tokens explain it, and those that read attention are refused.
- **refused**: the explainer raises an error with this reason, and gives no scores.
- **fails**: a check saw something wrong, with the figure; or the model's process ended.
- **no attention**: not a transformer: convolutions (ResNet, ConvNeXt) or recurrences without a line of layers that pass on a
  hidden state of every token. It is refused with this reason, and counted apart.
- **not built**: it could not be made small, or does not run on what others of its task run on (token numbers, pictures, sounds):
  it needs boxes or tables beside the text, or a library that is not installed, or its defaults do not fit together. This says
  nothing of whether AttCAT explains it.

## By task

The share is that of the models that were built and attend.

| task | built | work | with `cat` only | share | floor | refused | fail | no attention | not built |
|---|---|---|---|---|---|---|---|---|---|
"""
HEADS = """
## By family

In alphabetical order; timm's modules stand among transformers' families, with `(timm)`. Heads: *text*
`ForSequenceClassification`, *tokens* `ForTokenClassification`, *answers* `ForQuestionAnswering`, *choice* `ForMultipleChoice`,
*next sentence* `ForNextSentencePrediction`, *masked* `ForMaskedLM`, *causal* `ForCausalLM` or `LMHeadModel`, *writing*
encoder-decoders that write (in transformers' list also some that hear, which were given text alone), *image-text writing* models
that read pictures and words in one sequence, *speech writing* encoder-decoders that hear, *image-text pairs* CLIP and its kin,
*image-text boxes* detectors that are asked in words, *image-text answers* questions about pictures,
*image*, *video*, *boxes*, *pixels* and *instances* `ForImageClassification`, `ForVideoClassification`, `ForObjectDetection`,
`ForSemanticSegmentation`, `ForUniversalSegmentation` or `ForInstanceSegmentation`, *audio* `ForAudioClassification` or a
`ForSequenceClassification` that reads sound.

{letters}
"""


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """Make both pages of the record."""
    rows = [settled(row) for row in rows]
    (folder / "architectures.md").write_text(markdown(rows), encoding="utf-8")
    (folder / "architectures.html").write_text(page(rows), encoding="utf-8")


def settled(row: dict[str, Any]) -> dict[str, Any]:
    """A model that needs more memory than a case may take says nothing about the library."""
    if row["result"] not in ("refused", "foreign") or "can't allocate memory" not in row["reason"]:
        return row
    return {**row, "result": "not built", "reason": "needs more memory than a case may take, at the size it has"}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page: counts by task, what is checked, a line for each family."""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    lines = [INTRODUCTION.format(count=len(rows), date=date.today(), versions=versions).rstrip("\n")]
    tasks = sorted({row["task"] for row in rows}, key=lambda task: (task not in FLOORS, task))
    lines += [task_line(task, [row for row in rows if row["task"] == task]) for task in tasks]
    lines += ["", "## What is checked", "", *(f"- {name}" for name in CHECKS)]
    groups = [
        (letter, list(group))
        for letter, group in itertools.groupby(by_family(rows), key=lambda item: letter_of(item[0]))
    ]
    letters = " · ".join(f"[{letter}](#{letter.lower()})" for letter, _ in groups)
    lines.append(HEADS.format(letters=letters).rstrip("\n"))
    for letter, families in groups:
        lines += ["", f"### {letter}", "", "| family | works | does not | why |", "|---|---|---|---|"]
        lines += [family_line(name, members) for name, members in families]
    return "\n".join([*lines, ""])


def task_line(task: str, rows: list[dict[str, Any]]) -> str:
    """How many models of a task had which result."""
    results = [row["result"] if row["result"] in RESULTS else "fails" for row in rows]
    works, refused, fails, without, missing = (results.count(result) for result in RESULTS)
    there = works + refused + fails
    gradients = sum(only_gradients(row) for row in rows)
    floor = f"{FLOORS[task]} %" if task in FLOORS else ""
    share = f"{100 * works / max(1, there):.0f} %"
    return (
        f"| {' | '.join(map(str, (task, there, works, gradients, share, floor, refused, fails, without, missing)))} |"
    )


def only_gradients(row: dict[str, Any]) -> bool:
    """Whether a model works, but has no attention weights."""
    return row["result"] == "works" and not row.get("attends", True)


def by_family(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Families in alphabetical order, with their models."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (head(row), row["name"])):  # they stand in the record as they ended
        families.setdefault(row["family"], []).append(row)
    return sorted(families.items(), key=lambda item: (plain(item[0]), item[0]))


def plain(name: str) -> str:
    """A family's name as it is sorted: timm's among the others."""
    return name.removeprefix("timm ").lower()


def letter_of(name: str) -> str:
    """Under which a family stands."""
    return plain(name)[0].upper()


def family_line(name: str, members: list[dict[str, Any]]) -> str:
    """One family: its heads that work, those that do not, and why."""
    works = [head(row) + " (`cat`)" * only_gradients(row) for row in members if row["result"] == "works"]
    others: dict[str, list[str]] = {}
    for row in members:
        if row["result"] != "works":
            others.setdefault(row["result"], []).append(head(row))
    wrong = "; ".join(f"{result}: {', '.join(heads)}" for result, heads in others.items())
    reasons = dict.fromkeys(cell(reason(row)) for row in members if row["result"] != "works")
    model = f" (timm) `{members[0]['name']}`" if members[0]["library"] == "timm" else ""
    name = name.removeprefix("timm ").replace("_", "\\_")
    why = [*reasons, *([NOTES[name]] if name in NOTES else [])]
    return f"| {name}{model} | {', '.join(works)} | {wrong} | {'; '.join(why)} |"


def head(row: dict[str, Any]) -> str:
    """The short name of a model's head, which is what is left of its class's name."""
    return SHORT[row["task"]]


def reason(row: dict[str, Any]) -> str:
    """Why a model does not work, without what every such error says."""
    told = " ".join(row["reason"].split())
    if row["result"] == "not built":
        return unbuilt(told)
    for end in (
        " Write what is missing and register it",
        " AttCAT needs blocks that attend once",
        ". Supported by an adapter:",
    ):
        told = told.partition(end)[0]
    for start in (
        "cannot be explained: ",
        "cannot be explained so: ",
        "it could not be found out: ",
        "failed on input_ids (1, 11): ",
    ):
        told = told.partition(start)[2] or told
    return told.replace(row["name"], "it").rstrip(".")


def unbuilt(told: str) -> str:
    """Why a model could not be built, from what its class raised."""
    kind, _, message = told.partition(": ")
    if kind == "MemoryError":
        return f"it has {message} as small as it can be made"
    if missing := re.search(r"missing \d+ required positional arguments?: (.*)", message):
        return f"it needs more than others of its task: {missing[1]}"
    if kind == "ImportError":
        return "it needs a library that is not installed: " + message.partition(". ")[0]
    return f"made small it does not run: {told}" if message else told


def cell(text: str, longest: int = 220) -> str:
    """A cell of a table in Markdown."""
    short = text if len(text) <= longest else text[:longest].rpartition(" ")[0] + " ..."
    return short.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


# -- the page with a search field ------------------------------------------------------------------------------------

STYLE = """
main{font:15px/1.5 system-ui,sans-serif}
.find{position:sticky;top:0;padding:.6em 0;background:inherit;display:flex;flex-wrap:wrap;gap:.4em 1em;align-items:center}
.find,main,body{background:inherit}
.find input,.find select{font:inherit;color:inherit;background:transparent;border:1px solid rgba(128,128,128,.6);
border-radius:.3em;padding:.3em .6em}
.find option{color:#111;background:#fff}
.find input{flex:1 1 16rem}
.find :focus-visible{outline:2px solid}
table{border-collapse:collapse;width:100%;overflow-wrap:anywhere}
td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;border-top:1px solid rgba(128,128,128,.3)}
td:first-child{font-weight:600}
td:nth-child(3){white-space:nowrap}
td:last-child{font-size:.9em}
@media (max-width:40rem){tr{display:block;padding:.4em 0}td{display:block;border:0;padding:0}thead{display:none}}
"""
SCRIPT = """
(function(){
var field=document.getElementById("word"),kind=document.getElementById("result"),told=document.getElementById("told");
var rows=Array.prototype.slice.call(document.querySelectorAll("tbody tr"));
var texts=rows.map(function(row){return row.textContent.toLowerCase().replace(/[^a-z0-9 ]/g,"")});
function find(){
var words=field.value.toLowerCase().replace(/[^a-z0-9 ]/g,"").split(/ +/),shown=0;
rows.forEach(function(row,i){
var fits=words.every(function(word){return texts[i].indexOf(word)>=0})&&(!kind.value||row.dataset.result===kind.value);
row.hidden=!fits;shown+=fits});
told.textContent=shown+" of "+rows.length+" models"}
field.addEventListener("input",find);kind.addEventListener("change",find);
field.value=decodeURIComponent(location.hash.slice(1));find();field.focus()
})()
"""


def page(rows: list[dict[str, Any]]) -> str:
    """A page that needs nothing else: a line for each model, a search field that shows those that fit."""
    options = "".join(f"<option>{result}</option>" for result in RESULTS)
    ordered = sorted(rows, key=lambda row: (plain(row["family"]), row["name"].lower()))
    body = (
        '<div class="find"><input id="word" type="search" aria-label="Part of a name, a task or a reason" '
        'placeholder="Part of a name, e.g. llama, or of a reason">'
        f'<select id="result" aria-label="Result"><option value="">every result</option>{options}</select>'
        f'<span id="told" role="status">{len(rows)} models</span></div>'
        "<table><thead><tr><th>model</th><th>task</th><th>result</th><th>why not</th></tr></thead><tbody>"
        + "".join(map(page_line, ordered))
        + f"</tbody></table><script>{SCRIPT}</script>"
    )
    return framed(body, "Which models AttCAT explains", STYLE, SCRIPT)


def page_line(row: dict[str, Any]) -> str:
    """One model."""
    cells = (
        f"{row['name']} ({row['library']})",
        row["task"],
        row["result"] + " (cat)" * only_gradients(row),
        "" if row["result"] == "works" else reason(row)[:600],
    )
    return f'<tr data-result="{escape(row["result"])}">' + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>\n"
