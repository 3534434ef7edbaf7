"""The Plan tab without a browser: what it says and sends is what the run's arrays hold."""

from __future__ import annotations

import base64
import csv
import gc
import io
import json
import weakref
from dataclasses import replace
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipModel

from sama import fingerprint
from sama.edit.request import EditRequest
from sama.errors import EditError
from sama.model.named import EMBEDDED
from sama.model.naming import LinearNames, NamingTable, embedded_names
from sama.model.semantics import picture_tokens, token_scale
from sama.model.siglip import SiglipReader, words_for
from sama.presets import PRESETS, TINY_FOLDER
from sama.shapes import Bucket, Canvas
from sama.video import FrameReader
from tests.media import make_clip
from tests.tiny import SEMANTIC_DIM, tiny_pipeline, tiny_tokenizer
from training.tiny import naming
from ui import text
from ui.jobs.jobs import Edited, Jobs
from ui.media.plan import PlanFacts
from ui.media.runs import FinishedEdit, finish
from ui.media.tokens import Tokens, small_jpeg
from ui.media.towers import PlanReader
from ui.plan_text import likeness_note, origin, told
from ui.settings import Settings
from ui.tabs.controls import PageState
from ui.tabs.plan import PlanTab
from ui.viewer import plan_value

STEPS = 3
CANVAS = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()


def edited(folder: Path, **pipeline) -> FinishedEdit:
    """A run of a tiny pipeline in two windows, as the page keeps it."""
    clip = make_clip(folder / "clip.mp4", frames=8, width=96, height=72)
    jobs = Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(default_steps=STEPS, **CANVAS, **pipeline), warm=False))
    *events, last = jobs.edit(EditRequest(clip, "Add a swan to the lake", folder / "result.mp4", keep_source="off"))
    assert isinstance(last, Edited)
    painted = [event for event in events if event.phase == "painting" and event.step and event.window == 1]
    np.save(folder / "previews.npy", np.stack([event.preview for event in painted]))
    return finish(folder, clip, last.tokens)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> FinishedEdit:
    return edited(tmp_path_factory.mktemp("run"))


def unread(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def coarse(image: np.ndarray) -> np.ndarray:
    """The means of its squares of 8 pixels, which a JPEG keeps even of noise."""
    size = (image.shape[1] // 8, image.shape[0] // 8)
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def unpacked(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def first_frame(video: Path) -> np.ndarray:
    with FrameReader(video, 0, 1) as frames:
        return next(iter(frames)).image


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = unread(one), unread(other)
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_a_run_keeps_the_picture_of_every_step(run):
    tokens = run.tokens()
    previews = np.load(run.folder / "previews.npy")
    assert previews.shape == (STEPS, *tokens.anchor_result.shape)
    assert [small_jpeg(preview) for preview in previews] == list(tokens.pictures)
    apart = np.abs(previews.astype(float) - tokens.anchor_result).mean(axis=(1, 2, 3))
    assert apart[-1] < 0.1 < apart[0]  # the last estimate is the painted frame
    assert tokens.plan.shape == (STEPS, 65, SEMANTIC_DIM)


def test_everything_shown_is_of_the_runs_arrays(run):
    tokens = run.tokens()
    value = plan_value(run, PlanFacts.of(tokens))
    plan, source, result = tokens.plan, tokens.source, tokens.result
    expected = {
        "planned": 1 - cosine(plan[:, :64], source[:64]),
        "done": 1 - cosine(result[:64], source[:64]),
        "missed": 1 - cosine(plan[:, :64], result[:64]),
        "settled": cosine(plan[:, :64], plan[-1, :64]).mean(-1),
        "followed": cosine(plan[:, :64], result[:64]).mean(-1),
        "whole": cosine(plan[:, 64], result[64]),
    }
    for name, array in expected.items():
        np.testing.assert_allclose(value[name], array, atol=2e-3, err_msg=name)
    assert value["limit"] == pytest.approx(0.5 * token_scale(torch.from_numpy(unread(source)).float()), abs=1e-3)
    blocks = np.frombuffer(base64.b64decode(value["cosines"]), np.uint8).reshape(-1, 64, 64) / 127 - 1
    assert len(blocks) == 3 + 3 * STEPS and np.allclose(np.diag(blocks[0]), 1)
    assert blocks[-1][5, 9] == pytest.approx(cosine(plan[-1, 5], result[9]), abs=0.01)
    assert blocks[3 + 1][7, 3] == pytest.approx(cosine(source[7], plan[0, 3]), abs=0.01)
    wanted = {"painted": tokens.anchor_result, "got": first_frame(run.result), "source": first_frame(run.source)}
    for name, picture in wanted.items():
        shown = unpacked(base64.b64decode(value["pictures"][name].partition(",")[2]))
        assert shown.shape == picture.shape and np.abs(coarse(shown) - coarse(picture)).mean() < 3, name
    assert [base64.b64decode(url.partition(",")[2]) for url in value["pictures"]["steps"]] == list(tokens.pictures)
    assert "frame 1 of 8" in value["origin"] and "first of 2 parts" in value["origin"]

    table = list(csv.DictReader(io.StringIO(PlanFacts.of(tokens).csv())))
    assert len(table) == STEPS * 64
    row = table[64 + 10]
    assert (row["step"], row["row"], row["column"]) == ("2", "2", "3")
    assert float(row["source_plan"]) == pytest.approx(cosine(source[10], plan[1, 10]), abs=1e-3)
    assert float(row["plan_result"]) == pytest.approx(cosine(plan[1, 10], result[10]), abs=1e-3)


def test_raw_colours_saturate_nowhere_and_give_the_source_its_own(run):
    tokens = run.tokens()
    value = plan_value(run, PlanFacts.of(replace(tokens, plan=3 * tokens.plan)))  # length says nothing
    colours = np.frombuffer(base64.b64decode(value["colours"]), np.uint8).reshape(2 + STEPS, 64, 3)
    plain = base64.b64decode(plan_value(run, PlanFacts.of(tokens))["colours"])
    assert np.abs(colours.astype(int).ravel() - np.frombuffer(plain, np.uint8)).max() <= 2
    ends = ((colours == 0) | (colours == 255)).sum()
    assert ends <= 2 * 3 + 2  # one token at each end of each direction
    assert colours[0].std(axis=0).min() > 4


def made(steps=4, changed=(10, 11, 12, 13), done=(10, 11, 12, 13), late=1, seed=0) -> Tokens:
    """Tokens whose plan means to change some cells from the step `late` on, of which some are done."""
    random = np.random.default_rng(seed)
    source = random.normal(size=(65, 24)).astype(np.float32)
    plan = np.stack([source + 0.01 * random.normal(size=source.shape) for _ in range(steps)]).astype(np.float32)
    result = plan[-1].copy()
    for cell in changed:
        plan[late - 1 :, cell] = -source[cell]
    result[list(done)] = -source[list(done)]
    picture = np.zeros((16, 32, 3), np.uint8)
    return Tokens(plan, source, result, picture, picture, True)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (made(), ["6 % of the picture and was there after the first step", "the same 4 cells.", "everywhere"]),
        (made(late=3), ["6 % of the picture and took shape by step 3 of 4", "the same 4 cells."]),
        (made(done=(10, 11, 30)), ["changed 2 of these 4 cells, and 1 more", "least at row 2, column 5 (-1.00)"]),
        (made(changed=range(64), done=range(64)), ["covers the whole picture", "changed all of it"]),
        (made(changed=(), done=()), ["means no change", "changed nothing either"]),
    ],
)
def test_the_sentence_says_what_the_plan_was_and_what_came_of_it(tokens, words):
    said = told(PlanFacts.of(tokens)).replace("\N{MINUS SIGN}", "-")
    for part in words:
        assert part in said, said


def test_tokens_without_a_place_are_placed_by_likeness_and_said_to_be():
    tokens = made()
    order = np.random.default_rng(0).permutation(64)
    shuffled = tokens.plan.copy()
    shuffled[:, :64] = tokens.plan[:, order]
    facts = PlanFacts.of(replace(tokens, plan=shuffled, ordered=False))
    np.testing.assert_allclose(facts.planned, PlanFacts.of(tokens).planned, atol=1e-5)
    assert likeness_note(False).startswith("Placed by likeness") and "likeness" not in likeness_note(True)


def probe(limits: dict[str, float]) -> LinearNames:
    """Names by the strongest of three directions: a cat, a dog or a road; the fourth makes it red."""
    weights = {
        "hidden.weight": torch.cat([torch.eye(4), -torch.eye(4)]), "norm.weight": torch.ones(8),
        "name.weight": 4 * torch.eye(3, 8), "look.weight": torch.tensor([[0.0] * 8, [0, 0, 0, 9, 0, 0, 0, 0]]),
    }  # fmt: skip
    weights |= {f"{name}.bias": torch.zeros(size) for name, size in (("hidden", 8), ("norm", 8), ("name", 3))}
    weights["look.bias"] = torch.tensor([4.0, 0.0])
    return LinearNames(
        weights, NamingTable(("cat", "dog", "road"), ("animal", "animal", ""), ("", "red"), limits, "so")
    )


def test_names_are_said_only_where_they_are_sure():
    tokens = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [1, 0.99, 0, 0], [1, 0, 0, 1.2]])
    named = probe({"name": 0.8, "place": 0.8, "kind": 0.8, "look": 0.8})(tokens)
    assert named.word(0) == "cat" and named.word(1) == "road" and named.sure[:2].all()
    assert named.word(2) == "animal" and named.sure[2] and named.scores[2, 0] > 0.8  # which one is not sure
    assert named.word(3) == "red cat"
    strict = probe({"name": 0.8, "place": 0.8, "kind": 1.01, "look": 1.01})(tokens)
    assert not strict.sure[2] and strict.word(3) == "cat"


def test_the_words_of_a_plan_are_counted_where_it_means_a_change(monkeypatch):
    tokens = made(changed=(10, 11), done=(10, 11))
    tokens.source[:, :4], tokens.plan[..., :4] = [0, 0, 40, 0], [0, 0, 40, 0]
    tokens.plan[:, (10, 11), :4] = [40, 0, 0, 0]
    monkeypatch.setattr("sama.model.naming.embedded_names", lambda: Four())
    facts = PlanFacts.of(replace(tokens, result=tokens.plan[-1]))
    assert facts.in_words() == [("road", "cat", 2)]
    assert "In words: road → cat (2 cells)." in told(facts)
    names = dict(csv.DictReader(io.StringIO(facts.csv())).__next__())
    assert names["source_name"] == "road"
    assert PlanFacts.of(replace(tokens, encoder="another")).named is None


class Four:
    """The probe of `probe` for wider tokens."""

    width = 24

    def __call__(self, tokens):
        return probe({"name": 0.8, "place": 0.8, "kind": 0.8, "look": 0.8})(tokens[..., :4])


def test_records_survive_their_file_and_older_ones_open(run, tmp_path):
    tokens = run.tokens()
    named = probe({"name": 0.8, "place": 0.8, "kind": 0.8, "look": 0.8})(torch.rand(2 + STEPS, 65, 4))
    replace(tokens, named=named, encoder="x", source=None).save(tmp_path / "again.npz")
    again = Tokens.load(tmp_path / "again.npz")
    assert np.array_equal(again.plan, tokens.plan) and again.pictures == tokens.pictures
    assert again.source is None and np.array_equal(again.result, tokens.result) and again.encoder == "x"
    assert again.named.words == named.words and np.array_equal(again.named.indices, named.indices)
    held = dict(np.load(tmp_path / "again.npz"))
    older = ("plan", "result", "anchor_source", "anchor_result", "ordered")
    np.savez(tmp_path / "older.npz", source=tokens.source, **{name: held[name] for name in older})
    old = Tokens.load(tmp_path / "older.npz")
    assert old.pictures == () and old.encoder == EMBEDDED and old.named is None
    assert plan_value(run, PlanFacts.of(old))["pictures"]["steps"] == []


def test_the_shipped_probe_names_what_the_examples_show():
    edit = FinishedEdit.load(Path("assets/examples/remove-pepper"))
    facts = PlanFacts.of(edit.tokens())
    assert "The plan covers 6 % of the picture and was there after the first step" in told(facts)
    assert facts.named is not None and embedded_names().table.note in facts.named.note
    scored = json.loads(Path("docs/benchmark/scores.json").read_text())["about"]
    assert fingerprint.of_folder(TINY_FOLDER) == scored["weights"]  # it is no part of what edits
    before = facts.named.sure_words(0)
    assert before.count("desert") > 16  # the scene is drawn in a desert
    assert any(new == "desert" for _, new, _ in facts.in_words())  # the pepper's place is to be sand
    assert "frame 1 of 17" in origin(facts, edit.frames, 1)


def test_a_probe_learns_names_and_is_as_sure_as_it_is_right(tmp_path):
    random = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(6, 16, generator=random)

    def cells(count):
        names, looks = torch.randint(6, (count,), generator=random), torch.randint(2, (count,), generator=random)
        tokens = centres[names] + torch.randn(count, 16, generator=random)
        tokens[:, 0] = tokens[:, 0] + 8 * looks
        return naming.Labelled(tokens.half(), names, looks)

    labels = naming.Labels.__new__(naming.Labels)
    labels.names, labels.kinds = list("abcdef"), ["", "", "x", "x", "y", "y"]
    data = {"train": cells(1500), "limits": cells(400), "same": cells(400), "other": cells(400)}
    first, again, other = (naming.fit(data["train"], 6, 2, seed, epochs=1) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["name.weight"], other["name.weight"])
    one, accuracy = naming.make(data, labels, seed=1, epochs=24)
    assert all(weight.isfinite().all() for weight in one.weights.values())
    assert accuracy["same"].nearest > 0.9 and accuracy["same"].right >= naming.WANTED
    naming.save(one, accuracy, tmp_path / "naming.safetensors")
    loaded = LinearNames.load(tmp_path / "naming.safetensors")
    assert np.array_equal(loaded(centres).indices, one(centres).indices) and loaded.table == one.table
    assert f"{accuracy['same'].right:.0%} of these" in loaded.table.note
    right = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    assert naming.limit(right, torch.tensor([9, 8, 7, 6, 5, 4, 3, 2.0])) == 5
    assert naming.limit(right, torch.tensor([9, 8, 7, 6, 5, 4, 3, 2.0]) / 100) == naming.LEAST
    assert naming.limit(torch.zeros(8), torch.arange(8.0)) > 1


def whole_tower(width: int = SEMANTIC_DIM) -> SiglipModel:
    side = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    words = side | {"vocab_size": len(tiny_tokenizer()), "max_position_embeddings": 24, "projection_size": width}
    config = SiglipConfig(text_config=words, vision_config=side | {"image_size": 64, "patch_size": 8})
    return SiglipModel(config).eval()


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers") / "siglip"
    whole_tower().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blind(tmp_path_factory) -> FinishedEdit:
    """A run of a model without a tower, whose tokens have no position: as the 14B is loaded."""
    return edited(tmp_path_factory.mktemp("blind"), tower=False, semantic_positions="none")


def plan_tab(tower: str | None) -> PlanTab:
    with gr.Blocks(), gr.Tab("Plan") as tab:
        return PlanTab(tab, [], PageState(gr.State(None), gr.State([]), gr.State(None)), PlanReader(tower))


def test_a_plan_without_a_tower_is_read_by_the_presets_own_on_demand(blind, tower, monkeypatch):
    assert PRESETS["14b"].tower and Settings(preset="14b", tower=str(tower)).vision_tower == str(tower)
    tab, before = plan_tab(str(tower)), blind.tokens()
    assert before.source is None and len(before.pictures) == STEPS
    offered = tab._show("run 0", [blind])
    said = offered[tab.plan]["message"]
    assert f"{tower.parent.name}/siglip" in said and str(tower) not in said and offered[tab.read].visible

    held = []
    made_reader = SiglipReader.__init__

    def watched(self, tower, *rest):
        held.append(weakref.ref(tower))
        made_reader(self, tower, *rest)

    monkeypatch.setattr(SiglipReader, "__init__", watched)
    waiting, shown = tab._read("run 0", [blind])
    gc.collect()
    assert waiting[tab.plan] == {"message": text.READING} and [ref() for ref in held] == [None]
    tokens, model = blind.tokens(), whole_tower()
    expected = picture_tokens(model.vision_model, tokens.anchor_source)
    np.testing.assert_allclose(tokens.source, expected.numpy().astype(np.float16), atol=2e-3)
    assert shown[tab.plan]["place"].startswith("Placed by likeness") and not shown[tab.read].visible
    assert tower.name in shown[tab.plan]["origin"] and "not measured" in shown[tab.plan]["names"]["note"]
    assert Path(
        shown[tab.npz].value["path"] if isinstance(shown[tab.npz].value, dict) else shown[tab.npz].value
    ).exists()
    assert {"swan", "lake"} <= set(words_for(blind.instruction)) & set(tokens.named.words)
    with torch.no_grad():  # the token for the whole picture is in the words' space as it is
        ids = tiny_tokenizer()("a photo of swan.", padding="max_length", max_length=24, return_tensors="pt").input_ids
        swan = model.text_model(input_ids=ids).pooler_output[0]
        ids = tiny_tokenizer()("a photo of lake.", padding="max_length", max_length=24, return_tensors="pt").input_ids
        lake = model.text_model(input_ids=ids).pooler_output[0]
    near = [torch.cosine_similarity(expected[64], state, dim=0) for state in (swan, lake)]
    reader = SiglipReader(model.vision_model, model, tiny_tokenizer())
    two = reader.names(expected[None].expand(2, -1, -1), ["swan", "lake", "sky"])
    ranked = [two.words[place] for place in two.indices[0, 64] if two.words[place] != "sky"]
    assert ranked == (["swan", "lake"] if near[0] > near[1] else ["lake", "swan"])

    monkeypatch.setattr("sama.model.siglip.siglip_reader", None)  # what is read once is kept
    assert tab._show("run 0", [blind])[tab.plan]["steps"] == STEPS


def test_a_tower_that_is_not_there_or_does_not_fit_is_said(run, tmp_path):
    missing = replace(run.tokens(), source=None, result=None)
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("source.mp4", "result.mp4", "settings.json"):
        (folder / name).symlink_to(run.folder / name)
    missing.save(folder / "tokens.npz")
    edit = FinishedEdit.load(folder)
    with pytest.raises(EditError, match=r"could not be fetched\. Connect to the internet"):
        PlanReader(str(tmp_path / "nothing")).read(edit)
    whole_tower(48).save_pretrained(tmp_path / "wide")
    tiny_tokenizer().save_pretrained(tmp_path / "wide")
    with pytest.raises(EditError, match=f"width 48, and this plan has {SEMANTIC_DIM}"):
        PlanReader(str(tmp_path / "wide")).read(edit)
    tab = plan_tab(None)
    assert "--tower" in tab._show("run 0", [edit])[tab.plan]["message"]
    broken = plan_tab(str(tmp_path / "nothing"))
    *_, last = broken._read("run 0", [edit])
    assert "Connect to the internet" in last[broken.plan]["message"] and last[broken.read].visible
    assert Tokens.load(folder / "tokens.npz").source is None
