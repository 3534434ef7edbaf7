"""What of a LoRA cannot be applied, or why it is refused, is said where the user looks; its words are shown as text."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sama import cli
from sama.edit import edit_video
from sama.edit.request import MAX_INSTRUCTION, EditRequest
from sama.errors import EditError
from sama.shapes import Bucket, Canvas
from tests.edit_tab import edit_tab, press
from tests.loras import in_style, pairs
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from ui import text
from ui.jobs.jobs import Jobs
from ui.loras import offered
from ui.media.clips import take_upload
from ui.settings import Settings

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
KEY = "diffusion_model.blocks.0.norm3.diff"
SAID = f"1 difference is left out, because only linear layers can be changed ({KEY})."
MARKUP = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) **b** *i* __b__ _i_ `c` &lt; a_b"
SHOWN = "＜img src=x onerror=alert(1)＞ ［x］(javascript:alert(1)) ＊＊b＊＊ ＊i＊ ＿＿b＿＿ ＿i＿ ｀c｀ ＆lt; a_b"  # noqa: RUF001


@pytest.fixture
def pipe():
    return tiny_pipeline(tower=False, **SMALL, default_steps=1)


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=3)


@pytest.fixture
def file(pipe, tmp_path):
    """A LoRA of which a part cannot be applied."""
    weights = in_style("comfyui", pairs(pipe)) | {KEY: torch.ones(48)}
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / "partly.safetensors")
    return tmp_path / "partly.safetensors"


def test_result_and_settings_say_what_was_left_out(pipe, clip, file, tmp_path):
    request = EditRequest(clip, "Make it snowy", tmp_path / "out.mp4", keep_source="on")
    pipe.load_lora_weights(file)
    result = list(edit_video(request, pipe))[-1].result
    assert result.notices == (f"partly.safetensors: {SAID}",)
    assert json.loads(result.settings.read_text())["notices"] == [f"partly.safetensors: {SAID}"]
    pipe.disable_lora()
    assert list(edit_video(request, pipe))[-1].result.notices == ()


def test_the_command_line_says_it_once(pipe, clip, file, tmp_path, capsys, caplog):
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["edit", str(clip), "Make it snowy", "--model", str(tmp_path / "model"), "--frames", "1"]
    assert cli.main([*arguments, "--steps", "1", "--quiet", "--lora", str(file)]) == 0
    said = capsys.readouterr().err
    note = said.splitlines()[-1]
    assert note.startswith("Note: ") and note.endswith(f"partly.safetensors: {SAID}") and said.count("left out") == 1
    assert "left out" not in caplog.text  # a log would go to stderr too


def test_the_page_says_it_with_the_result_of_that_lora_alone(pipe, clip, file, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    jobs = Jobs(Settings(pipeline_loader=lambda: pipe, warm=False, lora=(str(file),)))
    page, session = edit_tab(jobs)
    uploaded = take_upload(clip)
    for name, expected in (("partly", True), (text.NO_LORA, False)):
        *_, last = press(page, uploaded, frames=3, steps=1, guidance=1.0, keep_source="Always", lora=name)
        assert (SAID in last[page.stage.title]["facts"]) is expected
        (edit,) = last[session.runs]
        assert (f"partly.safetensors: {SAID}" in json.loads(edit.settings_file.read_text())["notices"]) is expected


@pytest.mark.parametrize(
    ("leaf", "tensor", "words"),
    [
        ("lokr_w1", torch.ones(2, 2), "is a LoKr"),
        ("dora_scale", torch.ones(1, 48), "is a DoRA"),
        ("lora_A.weight", torch.full((4, 48), torch.nan), "not finite"),
        ("lora_A.weight", torch.ones(4, 48, dtype=torch.int8), "int8 numbers"),
        ("lora_A.weight", torch.ones(0, 48), "rank 0"),
        ("alpha", torch.ones(2), "alpha of 2 numbers"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(pipe, clip, tmp_path, capsys, leaf, tensor, words):
    key = f"diffusion_model.blocks.0.self_attn.q.{leaf}"
    save_file(in_style("comfyui", pairs(pipe)) | {key: tensor}, tmp_path / "bad.safetensors")
    pipe.save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()  # the saved model's progress
    arguments = ["edit", str(clip), "Make it snowy", "--model", str(tmp_path / "model"), "--frames", "1"]
    assert cli.main([*arguments, "--quiet", "--lora", str(tmp_path / "bad.safetensors")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "bad.safetensors " in said and words in said and key in said
    assert sorted(tmp_path.iterdir()) == before
    if words != "not finite":  # the header tells
        with pytest.raises(EditError, match=words):
            Settings(lora=(str(tmp_path / "bad.safetensors"),))


# --- Words of strangers ----------------------------------------------------------------------------------------------


def with_header(pipe, path, trigger):
    save_file(in_style("comfyui", pairs(pipe)), path, metadata={"modelspec.trigger_phrase": trigger})
    return str(path)


def test_markup_in_names_and_headers_is_shown_as_text(pipe, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    loras = offered((with_header(pipe, tmp_path / f"{name}.safetensors", MARKUP),))
    assert list(loras) == [name] and loras[name].trigger == MARKUP
    jobs = Jobs(Settings(pipeline_loader=lambda: pipe, warm=False, lora=(str(loras[name].path),)))
    form = edit_tab(jobs)[0].form
    chosen = form._choose_lora(name)
    assert chosen[form.instruction] == MARKUP
    for shown in (form.lora.info, chosen[form.lora].info):  # gradio takes it for Markdown
        assert shown == f"Say “{SHOWN}”."


def test_words_of_a_header_are_one_line_that_an_instruction_can_be(pipe, tmp_path):
    loras = offered((with_header(pipe, tmp_path / "a.safetensors", "Make\nit\x1b[31m\u202e red\x00"),
                     with_header(pipe, tmp_path / "b.safetensors", "x" * 5000),
                     with_header(pipe, tmp_path / "two\nlines.safetensors", "")))  # fmt: skip
    assert loras["a"].trigger == "Make it [31m red"
    assert len(loras["b"].trigger) == MAX_INSTRUCTION and loras["two lines"].trigger == ""


def test_a_file_by_the_name_of_no_lora_can_be_chosen(pipe, tmp_path):
    assert list(offered((with_header(pipe, tmp_path / f"{text.NO_LORA}.safetensors", ""),))) == [f"{text.NO_LORA} 2"]
