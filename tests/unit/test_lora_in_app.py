"""The app with LoRAs, without a browser: they are offered, chosen, applied and switched off again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import app
from sama.edit.request import EditRequest
from sama.errors import EditError
from sama.video import FrameReader
from tests.edit_tab import edit_tab, values
from tests.media import make_clip, make_text
from tests.tiny import tiny_pipeline, tiny_transformer
from training.config import LoraConfig
from training.stages.lora import add_adapter, export_lora
from ui import text
from ui.errors import sentence
from ui.jobs.jobs import Edited, Jobs, Restoration
from ui.loras import LORA_STRENGTH, offered
from ui.media.clips import PageClip
from ui.media.runs import finish
from ui.settings import Settings


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("SAMA_LORA", raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two LoRAs with a visible effect; the first says how to ask for it."""
    folder, paths = tmp_path_factory.mktemp("loras"), []
    for seed, (name, trigger) in enumerate((("neon", "Make it neon"), ("plain", ""))):
        transformer = tiny_pipeline(tower=False).transformer
        config = LoraConfig(rank=2, name=name, trigger=trigger)
        generator = torch.Generator().manual_seed(seed)
        for weight in add_adapter(transformer, config, seed):
            torch.nn.init.normal_(weight, std=0.5, generator=generator)
        paths.append(export_lora(transformer, folder / name, config))
    return paths


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=5)


@pytest.fixture(scope="module")
def jobs(files):
    def loader():
        return tiny_pipeline(tower=False)

    return Jobs(Settings(pipeline_loader=loader, warm=False, lora=tuple(map(str, files))))


def edited(jobs, clip, folder, lora=()):
    """The pictures of an edit."""
    folder.mkdir()
    *_, last = jobs.edit(EditRequest(clip, "Make it red", folder / "result.mp4", keep_source="off", lora=lora))
    assert isinstance(last, Edited)
    with FrameReader(folder / "result.mp4") as reader:
        return np.stack([frame.image for frame in reader]).astype(int)


def test_each_edit_wears_the_lora_it_asks_for_and_no_other(jobs, clip, files, tmp_path):
    plain = edited(jobs, clip, tmp_path / "without")
    neon, other = (edited(jobs, clip, tmp_path / path.stem, (str(path),)) for path in files)
    assert np.abs(neon - plain).mean() > 2 and np.abs(neon - other).mean() > 2
    weak = edited(jobs, clip, tmp_path / "weak", (f"{files[0]}@0",))
    assert np.array_equal(weak, plain) and np.array_equal(edited(jobs, clip, tmp_path / "again"), plain)
    alone = Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(tower=False), warm=False))
    assert np.array_equal(edited(alone, clip, tmp_path / "alone"), plain)


def test_restorations_and_warming_up_wear_none(jobs, clip, files, tmp_path):
    edited(jobs, clip, tmp_path / "neon", (str(files[0]),))
    grey = np.full((5, 32, 48, 3), 127, np.uint8)
    *_, worn = jobs.restore(Restoration(grey, "[Complete the missing regions in the video]", "", 0))
    alone = Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(tower=False), warm=False))
    *_, bare = alone.restore(Restoration(grey, "[Complete the missing regions in the video]", "", 0))
    assert np.array_equal(worn.frames, bare.frames)


def test_the_page_offers_them_the_first_one_chosen(jobs, clip, files, tmp_path):
    from ui.app import build_app

    demo = build_app(Settings(pipeline_loader=jobs.settings.pipeline_loader, warm=False, lora=jobs.settings.lora))
    (dropdown,) = [block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "lora"]
    assert [name for name, _ in dropdown.choices] == [text.NO_LORA, "neon", "plain"]
    assert dropdown.value == "neon" and "Make it neon" in dropdown.info and dropdown.parent.parent.visible
    bare = build_app(Settings(pipeline_loader=jobs.settings.pipeline_loader, warm=False))
    (hidden,) = [block for block in bare.blocks.values() if getattr(block, "elem_id", None) == "lora"]
    assert not hidden.parent.parent.visible and hidden.value == text.NO_LORA


def test_what_is_chosen_on_the_page_is_what_is_asked_for(jobs, clip, files, tmp_path):
    from sama.video import probe

    tab, _ = edit_tab(jobs)
    form, source = tab.form, PageClip.of(probe(clip))
    chosen = form._choose_lora("neon")
    assert chosen[form.instruction] == "Make it neon" and chosen[form.strength] == 1.0
    assert form.instruction not in form._choose_lora("plain") and form.strength not in form._choose_lora(text.NO_LORA)

    def lora(name, strength):
        return form.read(values(tab, source, lora=name, strength=strength)).request(jobs.settings, tmp_path).lora

    assert lora("neon", 0.8) == (f"{files[0]}@0.8",)
    assert lora("neon", 99) == (f"{files[0]}@{LORA_STRENGTH[1]:g}",)
    assert lora(text.NO_LORA, 1.0) == lora("../../etc", 1.0) == ()


def test_settings_of_a_result_name_the_file_and_not_its_place(jobs, clip, files, tmp_path):
    folder = tmp_path / "run"
    edited(jobs, clip, folder, (f"{files[0]}@0.5",))
    edit = finish(folder, clip, None)
    assert json.loads(edit.settings_file.read_text())["lora"] == ["neon.safetensors@0.5"]


def test_a_lora_that_the_app_was_not_started_with_is_refused(jobs, clip, files, tmp_path):
    foreign = export_lora(with_adapter(tiny_transformer()), tmp_path / "foreign", LoraConfig(rank=2))
    with pytest.raises(EditError, match="not started with"):
        edited(jobs, clip, tmp_path / "result", (str(foreign),))
    assert not list((tmp_path / "result").iterdir())


def with_adapter(transformer):
    add_adapter(transformer, LoraConfig(rank=2))
    return transformer


def test_files_that_cannot_be_used_are_refused_at_the_start_in_one_sentence(tmp_path, capsys, files):
    notes = make_text(tmp_path / "notes.safetensors")
    for spec in (str(tmp_path / "missing.safetensors"), str(notes), f"{files[0]}@nan"):
        with pytest.raises(EditError, match=r"^[^\n]+\.[^\n]*$"):
            Settings(lora=(spec,))
        with pytest.raises(SystemExit) as stopped:
            app.parse(["--lora", spec])
        assert stopped.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_a_lora_of_another_model_is_said_to_be_one(tmp_path, clip):
    other = export_lora(with_adapter(tiny_transformer(ffn_dim=96)), tmp_path / "other", LoraConfig(rank=2))
    jobs = Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(tower=False), warm=False, lora=(str(other),)))
    with pytest.raises(Exception, match="another size") as refused:
        edited(jobs, clip, tmp_path / "result")
    assert "another size" in sentence(refused.value)


def test_the_environment_names_loras_where_no_option_does(monkeypatch, files):
    first, second = map(str, files)
    monkeypatch.setenv("SAMA_LORA", f"{first}@0.5:{Path(second).parent}")
    assert [(lora.name, lora.scale) for lora in app.parse([]).loras.values()] == [("neon", 0.5), ("plain", 1.0)]
    assert list(app.parse(["--lora", second]).loras) == ["plain"]


def test_two_of_one_name_are_told_apart(files):
    assert list(offered((str(files[0]), f"{files[0]}@0.3"))) == ["neon", "neon 2"]


def test_offering_a_lora_does_not_load_torch(files):
    code = (
        f"import sys, app; app.parse(['--lora', {str(files[0])!r}]);"
        "print(sorted({'torch', 'gradio', 'diffusers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
