import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sama import cli, doctor
from sama.checkpoints import load_transformer, save_official
from sama.presets import PRESETS
from sama.video import probe
from tests.media import make_clip, make_sound_only, make_text
from tests.tiny import tiny_pipeline, tiny_transformer

ROOT = Path(__file__).resolve().parents[2]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


def sama(*arguments, cwd=None):
    command = [sys.executable, "-m", "sama", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd, timeout=120)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    tiny_pipeline(tower=False).save_pretrained(folder)
    return folder


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "in put ü.mp4", frames=6, width=96, height=54, audio="aac")


def test_an_edit_exits_0_names_its_result_and_says_nothing_else(clip, model):
    done = sama("edit", clip, "Make it snowy", "--model", model, "--frames", 1, "--steps", 1, "--keep-source", "off")
    output = clip.with_name("in put ü-edited.mp4")
    assert (done.returncode, done.stdout.strip()) == (0, str(output))
    assert probe(output).frames == 1
    assert json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))["instruction"] == "Make it snowy"
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("Saved in put ü-edited.mp4 (1 frames in ")
    phases = ("Reading", "Loading", "Planning", "Painting", "Decoding", "Saving", "Saved")
    assert all(line.startswith(phases) for line in lines)


def test_settings_fill_what_is_not_given(clip, model, tmp_path):
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    given = ["--model", str(model), "--frames", "1", "--steps", "2", "--seed", "5", "--keep-source", "off"]
    assert cli.main(["edit", str(clip), "Make it snowy", "-o", str(first), *given]) == 0
    assert cli.main(["edit", "--settings", str(first.with_suffix(".json")), "-o", str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()
    other = tmp_path / "c.mp4"
    settings = ["--settings", str(first.with_suffix(".json"))]
    assert cli.main(["edit", *settings, "-o", str(other), "--seed", "6"]) == 0
    assert other.read_bytes() != first.read_bytes()
    again = [*settings, "-o", str(other), "--quality", "fast", "--guidance", "2", "--guidance-interval", "0.5", "1"]
    assert cli.main(["edit", *again]) == 0
    stored = json.loads(other.with_suffix(".json").read_text(encoding="utf-8"))
    assert stored["steps"] == PRESETS["tiny"].qualities["fast"].steps, "a quality replaces the earlier steps"
    assert (stored["guidance"], stored["guidance_interval"], stored["seed"]) == (2.0, [0.5, 1.0], 5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{clip}", ""], "instruction is empty"),
        (["{clip}", "x" * 10_000], "10,000 characters"),
        (["nowhere.mp4", "Make it snowy"], "no file nowhere.mp4"),
        (["{folder}", "Make it snowy"], "folder"),
        (["{text}", "Make it snowy"], "text.mp4"),
        (["{sound}", "Make it snowy"], "only sound"),
        (["{clip}", "Make it snowy", "-o", "nowhere/out.mp4"], "does not exist"),
        (["{clip}", "Make it snowy", "-o", "{clip}"], "source video itself"),
        (["{clip}", "Make it snowy", "--steps", "none"], "invalid int value"),
        (["{clip}", "Make it snowy", "--guidance", "nan"], "guidance cannot be nan"),
        (["{clip}", "Make it snowy", "--preset", "huge"], "tiny, 14b, 1.3b"),
        (["{clip}", "Make it snowy", "--memory", "lots"], "auto, resident, offload"),
        (["{clip}", "Make it snowy", "--sharpen"], "nrecognized arguments"),
        (["{clip}", "Make it snowy", "--steps", "0"], "steps cannot be 0"),
        (["{clip}", "Make it snowy", "-o", "y" * 300 + ".mp4"], "too long"),
        (["y" * 300 + ".mp4", "Make it snowy"], "too long"),
        (["{clip}", "Make it snowy", "--lora", "{text}"], "not a safetensors file"),
        (["{clip}", "Make it snowy", "--lora", "y" * 300], "too long"),
        (["{clip}", "Make it snowy", "--lora", ""], "LoRA has no name"),
        (["{clip}"], "Give an instruction"),
        ([], "Give a video"),
        (["--settings", "{text}"], "not a settings file"),
    ],
)
def test_bad_input_exits_2_with_one_sentence_and_no_file(arguments, says, clip, tmp_path):
    places = {"clip": clip, "folder": tmp_path, "text": make_text(tmp_path / "text.mp4")}
    places["sound"] = make_sound_only(tmp_path / "sound.wav")
    before = sorted(tmp_path.iterdir())
    refused = sama("edit", *(argument.format(**places) for argument in arguments), cwd=tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert says in refused.stderr
    assert refused.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("stored", "says"),
    [({"lora": 5}, "list of files"), ({"video": None}, "Give a video"), ({"instruction": 7}, "must be text")],
)
def test_settings_with_values_of_the_wrong_kind_are_refused(stored, says, clip, tmp_path, capsys):
    settings = tmp_path / "odd.json"
    good = {"sama_version": "0.1.0", "video": clip.name, "instruction": "Make it snowy"}
    settings.write_text(json.dumps(good | stored))
    assert cli.main(["edit", "--settings", str(settings)]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_of_several_loras_is_refused(clip, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    assert cli.main(["edit", str(clip), "Make it snowy", "--lora", str(tmp_path)]) == 2
    assert "give the LoRA's own file" in capsys.readouterr().err


def test_refusals_do_not_wait_for_torch(clip):
    code = "import sys; from sama.cli import main; main(sys.argv[1:]); sys.exit(bool({'torch'} & set(sys.modules)))"
    for arguments in (["edit", str(clip), ""], ["edit", "nowhere.mp4", "Make it snowy"]):
        assert subprocess.run([sys.executable, "-c", code, *arguments], env=environment(), check=False).returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_no_file(number, status, clip, model, tmp_path):
    command = [sys.executable, "-m", "sama", "edit", str(clip), "Make it snowy", "-o", str(tmp_path / "out.mp4")]
    command += ["--model", str(model), "--steps", "200"]
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that: here a person is at the keyboard.
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=listen) as process:
        for line in process.stderr:
            if line.startswith("Painting"):
                break
        assert [path.suffix for path in tmp_path.iterdir() if path != clip] == [".part"]
        asked = time.monotonic()
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == status
    assert time.monotonic() - asked < 10
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == [clip]


def test_a_failure_of_ours_exits_1_and_says_how_to_see_more(clip, monkeypatch, capsys):
    def broken(*arguments, **more):
        raise RuntimeError("boom")
        yield

    monkeypatch.setattr("sama.edit.edit_video", broken)
    assert cli.main(["edit", str(clip), "Make it snowy"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "boom" in message
    assert "--debug" in message
    assert cli.main(["edit", str(clip), "Make it snowy", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_info_tells_facts_and_what_an_edit_takes(clip, model, capsys):
    assert cli.main(["info", str(clip), "--model", str(model), "--steps", "7"]) == 0
    facts, work, duration, mode = capsys.readouterr().out.splitlines()
    assert mode == "Memory mode: resident (all weights stay in main memory)"
    assert "96 x 54, 6 frames, 24 frames per second, 0.25 s" in facts
    assert "with sound" in facts
    assert "7 steps" in work
    assert "measured on this machine" in duration


def test_doctor_names_every_problem_and_what_to_do(tmp_path, capsys, monkeypatch):
    assert cli.main(["doctor", "--folder", str(tmp_path / "nowhere")]) == 1
    lines = capsys.readouterr().out.splitlines()
    problem = next(index for index, line in enumerate(lines) if line.startswith("PROBLEM  write permission"))
    assert "-o" in lines[problem + 1]


def test_a_healthy_machine_passes_the_doctor(model, tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from sama.presets import PRESETS

    monkeypatch.setattr(doctor, "PRESETS", {"tiny": replace(PRESETS["tiny"], folder=model)})
    assert cli.main(["doctor", "--folder", str(tmp_path)]) == 0
    weights = next(model.rglob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    try:
        assert cli.main(["doctor", "--folder", str(tmp_path)]) == 1
        assert "git lfs pull" in capsys.readouterr().out
    finally:
        weights.write_bytes(data)


def test_convert_goes_to_official_names_and_back(tmp_path, capsys):
    transformer = tiny_transformer()
    transformer.save_pretrained(tmp_path / "ours")
    official, back = tmp_path / "official.safetensors", tmp_path / "back"
    assert cli.main(["convert", str(tmp_path / "ours"), str(official), "--to", "official", "--dtype", "float32"]) == 0
    assert "blocks.0.self_attn.q.weight" in load_file(official)
    (tmp_path / "config.json").write_bytes((tmp_path / "ours" / "config.json").read_bytes())
    assert cli.main(["convert", str(official), str(back), "--to", "diffusers", "--dtype", "float32"]) == 0
    restored = load_transformer(back).state_dict()
    assert all(torch.equal(restored[name], tensor) for name, tensor in transformer.state_dict().items())
    save_official(transformer, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == official.read_bytes()


def test_convert_refuses_what_it_cannot_do(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for arguments, says in (
        (["nowhere", "new.safetensors", "--to", "official"], "no checkpoint"),
        (["nowhere", "there", "--to", "diffusers"], "exists already"),
        (["nowhere", "new.safetensors", "--to", "diffusers"], "is a folder"),
        (["there", "new.safetensors", "--to", "official"], "config.json"),
    ):
        paths = [str(tmp_path / name) for name in arguments[:2]]
        assert cli.main(["convert", *paths, *arguments[2:]]) == 2
        message = capsys.readouterr().err
        assert says in message
        assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_help_is_quick():
    began = time.monotonic()
    assert "edit" in sama("--help").stdout
    assert time.monotonic() - began < 3
