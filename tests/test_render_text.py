"""What readers of a text get: in the terminal, piped to a file, on a page, in a notebook."""

import base64
import hashlib
import io
import json
import re
import sys
import types
from dataclasses import replace
from html.parser import HTMLParser
from importlib import metadata

import drawn
import pytest
import torch
from rich.console import Console
from tokenizers_small import wordpiece
from zoo import FAMILIES

import attcat
from attcat import render
from attcat.errors import InputError
from attcat.explanation import Explanation
from attcat.render import colour, html, report, terminal, wording
from attcat.tokens import Tokens

NASTY = [
    "plain words here",
    "two  spaces,\ta tab\nand a line\n\nand another ",
    "\n leading line",
    "emoji 🎬 and a family 👩‍👩‍👧 and é e\u0301",
    "这部电影非常精彩。",
    "هذا الفيلم رائع جدا",
    "<script>alert('x')</script> &amp; \"quoted\" <b>",
    "[bold]no markup[/bold] [link=http://x]:smile:[/]",
    "windows\r\nlines\rand a bare return",
]


def explain(text, scores=None, second=None, **changes):
    """Words are runs of letters and single other characters, between a class and separator tokens."""
    labels, special, spans, segments = ["[CLS]"], [True], [None], [None]
    for segment, string in enumerate([text] if second is None else [text, second]):
        for match in re.finditer(r"\w+|[^\w\s]", string):
            labels.append(match.group())
            special.append(False)
            spans.append(match.span())
            segments.append(segment)
        labels.append("[SEP]")
        special.append(True)
        spans.append(None)
        segments.append(None)
    if scores is None:
        scores = [(-1) ** i * (i + 1) / len(labels) for i in range(len(labels))]
    given = {"logits": torch.tensor([0.0, 1.0]), "target": 1, "labels": ("negative", "positive"), "method": "attcat"}
    given |= {"options": {"rule": "libra"}, "model": "TinyBert", "source": text if second is None else (text, second)}
    tokens = Tokens(tuple(labels), tuple(special), tuple(spans), tuple(segments))
    return Explanation(torch.tensor([scores]), tokens, **(given | changes))


def film(**changes):
    return explain("a gripping dull film", [0.5, 0.001, 1.0, -0.5, 0.1, -0.25], **changes)


def unknown():
    """Bare model arguments: the tokens have names but no place in a text."""
    tokens = Tokens(("[CLS]", "Ġ<b>", "x", "[SEP]"), (True, False, False, True))
    return Explanation(torch.tensor([[0.5, 2.0, -1.0, 0.5]]), tokens, torch.tensor([0.0, 1.0]), 1, ("no", "yes"), "cat")


class Reader(HTMLParser):
    """Collects what a browser would show in the text blocks, the tags, and every attribute."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.texts, self.tags, self.attributes, self.marks, self.all = [], [], [], [], ""
        self._open = []
        self.feed(html)
        assert not self._open, "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self._open.append((tag, dict(attrs)))
        if ("class", "text") in attrs:
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "style" for tag, _ in self._open):
            return
        self.all += data
        if any(attrs.get("class") == "text" for _, attrs in self._open):
            self.texts[-1] += data
            if "title" in self._open[-1][1]:
                self.marks.append((data, self._open[-1][1]))


def printed(explanation, **options):
    file = io.StringIO()
    terminal.show(explanation, Console(file=file, **options))
    return file.getvalue()


def styles(text):
    """Characters of a rich Text with their colours: `{word: (foreground, background)}`."""
    triple = {}
    for span in text.spans:
        ground, ink = span.style.bgcolor, span.style.color
        triple[text.plain[span.start : span.end]] = (ink and tuple(ink.triplet), ground and tuple(ground.triplet))
    return triple


# -- the text itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NASTY)
def test_html_shows_the_text_character_for_character(text):
    html = render.page([explain(text)])
    assert Reader(html).texts == [text]
    assert "\r" not in html  # a browser would make it a line end
    assert Reader(html).tags.count("script") == 2  # the page's own data and its one script


@pytest.mark.parametrize("text", NASTY[:-1])
def test_highlight_is_the_text_character_for_character(text):
    assert render.highlight(explain(text)).plain == text


def test_tokens_that_go_back_do_not_repeat_characters():
    tokens = Tokens(("ab", " ", "ab  c"), (False,) * 3, spans=((0, 2), (3, 4), (0, 5)))
    made = Explanation(torch.ones(1, 3), tokens, torch.tensor([0.0, 1.0]), 1, ("n", "y"), "cat", source="ab  cd")
    assert [(word.start, word.end) for word in made.words()] == [(0, 2), (0, 5)]
    assert render.highlight(made).plain == "ab  cd"
    assert Reader(render.fragment(made)).texts == ["ab  cd"]


def test_control_characters_cannot_steer_the_terminal():
    shown = render.highlight(explain("a\x1b[31m\x07 \r\n b\rc\x9b"))
    assert shown.plain == "a␛[31m␇  \n b␍c\ufffd"
    made = film(labels=("negative", "\x1b[2Jpositive"), model="\x1b]0;x\x07")
    assert "\x1b" not in printed(made)


def test_both_texts_of_a_pair_are_shown_and_named():
    made = explain("one <two>", second="three\nfour")
    assert Reader(render.fragment(made)).texts == ["one <two>", "three\nfour"]
    assert "first text\none" in (out := printed(made))
    assert "second text\nthree" in out
    assert render.highlight(made).plain == "one <two>\nthree\nfour"


def test_highlight_can_be_cut_to_one_line():
    cut = render.highlight(explain("one\ntwo\tthree", second="four five"), width=18)
    assert cut.plain == "one two three | f…"
    assert render.highlight(explain("电影非常", [1.0, 1.0, 1.0]), width=6).cell_len <= 6


def test_without_offsets_the_tokens_stand_in_for_the_words():
    assert render.highlight(unknown()).plain == "Ġ<b> x"
    assert render.highlight(unknown(), colour=False).plain == "Ġ<b>(+2) x(-1)"
    assert "Ġ&lt;b&gt;" in render.fragment(unknown())
    assert "Ġ<b>(+2) x(-1)" in printed(unknown())


# -- signs and strengths -----------------------------------------------------------------------------------------------


def test_hues_carry_text_of_either_colour():
    for hue in (colour.FOR, colour.AGAINST):
        assert colour.contrast(hue, colour.BLACK) > 4.4
        assert colour.contrast(hue, colour.WHITE) > 4.5  # WCAG AA
    assert colour.contrast(colour.BLACK, colour.WHITE) == pytest.approx(21)


@pytest.mark.parametrize(("paper", "ink"), [((255, 255, 255), (17, 17, 17)), ((17, 17, 17), (244, 244, 244))])
def test_every_word_on_a_page_is_readable(paper, ink):
    """WCAG AA, on the light and on the dark page, at every strength."""
    for part in (*paper, *ink):
        assert part in (17, 244, 255)
    for page in (html.framed("", ""), render.page([film()])):
        assert "background:#fff;color:#111" in page
        assert "background:#111;color:#f4f4f4" in page
    for hue in (colour.FOR, colour.AGAINST):
        for step in range(101):
            assert colour.contrast(colour.mix(paper, hue, colour.FULL * step / 100), ink) >= 4.5


def test_html_sign_decides_the_hue_and_score_the_opacity():
    marks = dict(Reader(render.fragment(film())).marks)
    assert marks["gripping"]["class"] == "for"
    assert marks["gripping"]["style"] == "--s:1"
    assert marks["dull"]["class"] == "against"
    assert marks["dull"]["style"] == "--s:0.5"
    assert ".attcat .for{background:rgb(194 84 0/calc(0.8*var(--s)))" in html.STYLE
    assert ".attcat .against{background:rgb(10 121 190/calc(0.8*var(--s)))" in html.STYLE
    assert "style" not in marks["a"]  # too faint to be seen, but its score can be read
    assert [marks[word]["title"] for word in ("a", "gripping", "dull")] == ["+0.001", "+1", "-0.5"]


def test_terminal_sign_decides_the_hue_and_score_the_ground():
    found = styles(render.highlight(film()))
    assert found["gripping"] == (colour.WHITE, colour.FOR)
    red, _, blue = found["dull"][1]
    assert blue > red
    assert found["film"] == (colour.FOR, None)
    assert "a" not in found


def test_every_ground_in_the_terminal_is_readable():
    for step in range(-100, 101):
        style = terminal._style(step / 100)
        if style is not None and style.bgcolor is not None:
            ink, ground = tuple(style.color.triplet), tuple(style.bgcolor.triplet)
            assert colour.contrast(ink, ground) > 4.4


def test_special_tokens_do_not_set_the_scale_of_words_but_are_held_to_it():
    made = explain("good", [-50.0, 0.5, 0.0])
    marks = re.findall(r'<mark class="(\w+)" style="--s:1" title="(.*?)">', render.fragment(made))
    assert marks == [("for", "+0.5"), ("against", "-50")]
    assert "full colour = 0.5" in render.fragment(made)


# -- without colour ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"no_color": True, "force_terminal": True, "width": 200}])
def test_without_colour_the_scores_are_in_the_text(options):
    out = re.sub(r"\x1b\[[012]m", "", printed(film(), **options))  # bold and dim are not colours
    assert "a gripping(+1) dull(-0.5) film\n" in out
    assert "(+) speaks for positive   (-) speaks against positive" in out
    assert "\x1b" not in out


def test_no_color_in_the_environment_is_heard(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "gripping(+1)" in printed(film(), force_terminal=True, width=200)


def test_colours_need_no_numbers():
    out = printed(film(), force_terminal=True, color_system="truecolor", width=100)
    assert "gripping(" not in out
    assert "\x1b[38;2;255;255;255;48;2;194;84;0mgripping" in out


def test_what_is_piped_is_not_broken_into_lines():
    text = "word " * 100 + "end"
    assert text in printed(explain(text, [0.0] * 103), width=40)


# -- what is shown next to the text -----------------------------------------------------------------------------------


def both(explanation):
    return [printed(explanation), Reader(render.fragment(explanation)).all]


def test_header_says_class_probability_recipe_and_model():
    for shown in both(film()):
        assert "positive 73.1%" in shown
        assert "attcat (rule=libra) · TinyBert" in shown
        assert "predicted:" not in shown
    for shown in both(film(target=0)):
        assert "negative 26.9%" in shown
        assert "predicted: positive 73.1%" in shown
        assert "speaks against negative" in shown
    for shown in both(film(target=None)):
        assert "custom target" in shown
        assert "predicted: positive 73.1%" in shown


def test_special_tokens_stand_apart_with_their_share():
    for shown in both(film()):
        assert "[CLS] +0.5" in shown
        assert "[SEP] -0.25" in shown
        assert "31.9% of the total magnitude fell on special tokens" in shown
    assert "[CLS]" not in "".join(Reader(render.fragment(film())).texts)


def test_tokens_of_white_space_are_not_lost():
    tokens = Tokens(("a", "Ċ"), (False, False), spans=((0, 1), (1, 2)))
    made = Explanation(torch.tensor([[1.0, 0.5]]), tokens, torch.tensor([0.0, 1.0]), 1, ("n", "y"), "cat", source="a\n")
    for shown in both(made):
        assert "Ċ +0.5" in shown


def test_a_cut_is_reported():
    for shown in both(film(dropped=12)):
        assert "12 tokens were cut" in shown
    assert "1 token was cut" in printed(film(dropped=1))
    assert "cut" not in printed(film())


def test_all_zero_is_said():
    for shown in both(explain("nothing here", [-0.0] * 4)):
        assert "All scores are zero: nothing here speaks for or against positive." in shown
        assert "full" not in shown
        assert "-0" not in shown
    for shown in both(explain("nothing here", [1.0, 0.0, 0.0, 0.0])):
        assert "The score of every word is zero." in shown
        assert "100.0% of the total magnitude" in shown


def test_a_table_has_every_word_for_readers_without_colours():
    assert re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", render.fragment(film())) == [
        ("a", "+0.001"),
        ("gripping", "+1"),
        ("dull", "-0.5"),
        ("film", "+0.1"),
    ]


# -- pages and notebooks -----------------------------------------------------------------------------------------------


def test_everything_from_outside_is_escaped():
    evil = "\"><script>alert(1)</script><img src=http://x onerror='y'>"
    made = film(labels=(evil, evil), model=evil, method=evil, options={evil: evil}, target=0)
    tokens = replace(made.tokens, labels=(evil,) * 6)
    for one in (replace(made, tokens=tokens), replace(made, tokens=replace(tokens, spans=None))):
        html = render.page([one, replace(one, target=1)], title=evil, names=[evil, evil])
        reader = Reader(html)
        assert reader.tags.count("script") == 2
        assert "<script>alert" not in html
        assert "img" not in reader.tags
        assert "onerror" not in dict(reader.attributes)
        assert evil in reader.all


def test_a_page_needs_nothing_but_itself():
    html = render.page([film(), explain("see http://example.org")], title="Two")
    reader = Reader(html)
    assert [value for name, value in reader.attributes if name in ("src", "href")] == ["#input-1", "#input-2"]
    assert "url(" not in html
    assert "@import" not in html
    assert "link" not in reader.tags
    assert html.startswith("<!DOCTYPE html>")
    assert reader.tags.count("style") == 1
    assert reader.tags.count("article") == 2
    assert ("lang", "en") in reader.attributes
    assert "prefers-color-scheme:dark" in html


def test_a_page_allows_its_own_script_and_nothing_from_outside():
    html = render.page([film()])
    policy = dict(re.findall(r"(\w+-\w+) ([^;\"]+)", re.search(r'Policy" content="([^"]+)"', html).group(1)))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert policy["img-src"] == "data:"
    assert not re.search(r"innerHTML|insertAdjacent|eval\(|fetch\(|https?:", script)


def test_a_reader_gets_the_gist_first_and_the_settings_last():
    html = render.page([film()])
    order = ["positive 73.1%", "“gripping” speaks for it; “dull” speaks against it.", 'class="text"', "speaks for positive",
             "Probabilities of the classes", "31.9% of the total magnitude", "How this was made", "rule=libra"]  # fmt: skip
    places = [html.index(part) for part in order]
    assert places == sorted(places)
    assert "26.9%" in html


def test_the_last_part_says_what_was_not_read_and_by_which_versions(monkeypatch):
    last = lambda *made: render.page(list(made)).partition("How this was made")[2]  # noqa: E731
    assert "not read" not in last(film())
    assert "<dt>not read</dt><dd>7 tokens, cut from the end of 2 of 3 inputs</dd>" in last(
        film(), replace(film(), dropped=3), replace(film(), dropped=4)
    )
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    for name in ("attcat", "torch", "transformers"):
        assert f"{name} {metadata.version(name)}" in last(film())
    assert "timm" not in last(film())


def test_many_share_one_scale_and_one_legend():
    made = [explain("good film", [0.0, top, top / 2, 0.0]) for top in (1.0, 0.25)]
    html = render.page(made)
    assert [dict(Reader(html).marks)[word]["style"] for word in ("good", "film")] == ["--s:0.25", "--s:0.12"]
    assert html.count("full colour =") == 1
    assert "full colour = 1</span>" in html
    assert 'href="#input-2"' in html
    assert "One scale for all" in html
    other = replace(made[1], model="Another")  # another model's scores are not comparable
    html = render.page([made[0], other])
    assert dict(Reader(html).marks)["good"]["style"] == "--s:1"
    assert "One scale for all" not in html
    assert "A scale for each model and method" in html


def test_texts_and_pictures_do_not_claim_one_scale():
    html = render.page([drawn.text(), drawn.picture()])
    assert "One scale for the texts, another for the pictures" in html
    assert "One scale for all" not in html


def test_classes_of_one_input_share_a_place():
    html = render.page([film(target=1), film(target=0), explain("other")])
    assert html.count('<section class="place"') == 2
    assert html.count("<article") == 3
    assert "what decided 2 predictions" in html


def test_sentences_are_cut_and_summed():
    made = explain("A good film. Really good! But 3.5 hours long?\nYes", [0.0, *[float(n) for n in range(1, 16)], 0.0])
    found = wording.sentences(made)
    assert [part.text for part in found] == ["A good film.", "Really good!", "But 3.5 hours long?", "Yes"]
    assert sum(part.score for part in found) == pytest.approx(sum(word.score for word in made.words()))


def test_the_data_of_a_page_is_json_that_cannot_leave_its_element():
    html = render.page([explain("</script><b>x</b> \u2028 \U0001f3ac film")])
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert "<" not in data
    assert "\u2028" not in data
    (item,) = json.loads(data)["items"]
    (sentences,) = item["views"]["sentences"]
    assert sum(sentences[::2]) == 26 + 1  # UTF-16 units: the camera counts twice


def test_a_page_too_large_for_its_layers_says_so(monkeypatch):
    monkeypatch.setattr(report, "LAYERS", 5)
    made = replace(film(), layers=torch.ones(2, 6))
    assert "The layer views are left out" in render.page([made])
    assert '"layers":[' not in render.page([made])
    monkeypatch.setattr(report, "LAYERS", 12)
    assert '"layers":[[1000,1000,1000,1000,1000,1000]' in render.page([made])


def test_a_single_report_is_small():
    assert len(render.page([explain("word " * 400)]).encode()) < 1_000_000


def test_saving_as_html_writes_the_page(tmp_path):
    assert film().save(tmp_path / "a.html").read_text(encoding="utf-8") == render.page([film()])


@pytest.fixture
def notebook(monkeypatch):
    """An IPython with a kernel, as far as show() looks; returns what was displayed."""
    shown = []
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return shown


def test_show_in_a_notebook_displays_html_and_prints_nothing(notebook, capsys):
    made = film()
    made.show()
    assert [one._repr_html_() for one in notebook] == [render.fragment(made)]
    assert capsys.readouterr().out == ""


def test_the_gist_keeps_its_order_around_words_from_right_to_left():
    made = film()
    spans = ((0, 4), (5, 9))
    arabic = "فيلم جيدا"
    tokens = Tokens(("x", "y"), (False, False), spans=spans)
    told = wording.gist(replace(made, source=arabic, tokens=tokens, layers=torch.tensor([[2.0, 1.0]])))
    assert told.count("\N{FIRST STRONG ISOLATE}“") == told.count("”\N{POP DIRECTIONAL ISOLATE}") == 2
    assert "\N{FIRST STRONG ISOLATE}" not in wording.gist(made)


@pytest.fixture
def bars(notebook, monkeypatch):
    """What a notebook's output shows of a bar, state after state."""
    states = []
    handle = types.SimpleNamespace(update=lambda data, raw: states.append(data))

    def display(data, raw, display_id):
        states.append(data)
        return handle

    monkeypatch.setattr(sys.modules["IPython.display"], "display", display)
    monkeypatch.setattr(render.notebook, "SOON", 0.0)
    monkeypatch.setattr(render.notebook, "EVERY", 0.0)
    return states


def test_many_inputs_have_a_bar_in_a_notebook_which_goes_when_they_are_done(bars, capsys):
    explainer = attcat.Explainer(FAMILIES["bert"].model(), wordpiece(), batch_size=1)
    explainer(["a film", "a dull film", "it"])
    assert [state["text/plain"] for state in bars] == ["explained 1 of 3", "explained 2 of 3", ""]
    assert bars[0]["text/html"].startswith('<progress max="3" value="1"></progress>')
    assert bars[-1]["text/html"] == ""
    bars.clear()
    explainer("a film")
    assert bars == []
    with pytest.raises(attcat.InputError):
        explainer(["a film", "it", ""])
    assert bars == [] or bars[-1]["text/html"] == ""
    assert capsys.readouterr() == ("", "")


def test_a_call_that_is_soon_done_shows_no_bar(bars, monkeypatch):
    monkeypatch.setattr(render.notebook, "SOON", 60.0)
    with render.progress(3) as tick:
        for _ in range(3):
            tick(1)
    assert bars == []


def test_elsewhere_a_call_with_many_inputs_shows_nothing(bars, monkeypatch, capsys):
    sys.modules["IPython"].get_ipython = lambda: None
    with render.progress(3) as tick:
        tick(1)
    assert bars == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace()])
def test_show_elsewhere_prints(notebook, monkeypatch, capsys, shell):
    sys.modules["IPython"].get_ipython = lambda: shell  # none, or the one of a terminal
    film().show()
    assert notebook == []
    assert "gripping(+1)" in capsys.readouterr().out


def test_a_text_has_no_figure():
    with pytest.raises(InputError, match="of a text"):
        render.figure(film())
