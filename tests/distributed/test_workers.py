"""Workers that edit together: one process's results, jobs that end in every way, and a death that costs one job."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
import psutil
import pytest
import torch
from starlette.testclient import TestClient

from sama.edit.request import EditRequest
from sama.errors import EditError, EditFailedError
from sama.workers import group
from sama.workers.group import Workers
from sama.workers.worker import own_device
from tests.distributed.worker_jobs import endless, failing, four_steps, four_steps_on, half_a_run, silent, steps
from tests.loras import in_style, pairs
from tests.media import make_clip
from tests.tiny import tiny_clip, tiny_pipeline
from ui.errors import sentence
from ui.jobs.jobs import Jobs
from ui.jobs.work import Edited, JobStep, Restoration
from ui.server import app_options
from ui.settings import Settings

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
INSTRUCTION = "Make it snowy"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("lora") / "red.safetensors"
    save_file(in_style("diffusers", pairs(tiny_pipeline(tower=False))), path)
    return {"pipeline_loader": four_steps, "warm": False, "lora": (str(path),), "examples": path.parent}


@pytest.fixture(scope="module")
def jobs(settings):
    jobs = Jobs(Settings(**settings, gpus=2, device="cpu"))
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def alone(settings):
    return Jobs(Settings(**settings))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=6, width=96, height=54)


@pytest.fixture
def workers(jobs):
    """The app's workers, ready."""
    jobs.engine.load()
    return jobs.engine._workers


def edit(jobs, clip, output, **given):
    return list(jobs.edit(EditRequest(clip, INSTRUCTION, output, keep_source="off", **given)))


def test_an_app_with_workers_gives_what_an_app_without_gives(jobs, alone, clip, tmp_path):
    lora = next(iter(jobs.settings.loras.values()))
    files = {}
    for name, given in {"plain": {}, "lora": {"lora": (lora.spec(1.0),)}}.items():
        for app in (jobs, alone):
            files[name, app] = tmp_path / f"{name}-{app.settings.gpus}.mp4"
            *painted, last = edit(app, clip, files[name, app], **given)
            assert isinstance(last, Edited) and last.tokens is not None
            assert [step.step for step in painted if step.phase == "painting" and step.step] == [1, 2, 3, 4]
            assert any(step.preview is not None for step in painted)
        assert files[name, jobs].read_bytes() == files[name, alone].read_bytes()
    assert files["plain", jobs].read_bytes() != files["lora", jobs].read_bytes()
    task = Restoration(tiny_clip(5, 64, 64).numpy(), "[Complete the missing regions in the video.]", "", 0)
    found = [list(app.restore(task))[-1].frames for app in (jobs, alone)]
    assert np.array_equal(*found) and found[0].std() > 1
    assert jobs.read_tokens == 64 and jobs.unread("snowy " * 58 + "cat dog") == "cat dog"
    other = shutil.copy(lora.path, tmp_path / "other.safetensors")
    with pytest.raises(EditError, match="not started with that LoRA"):
        edit(jobs, clip, tmp_path / "other.mp4", lora=(str(other),))


def test_a_job_that_ends_early_leaves_the_workers_to_the_next(jobs, workers, clip, tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    before = workers.numbers
    run = jobs.edit(EditRequest(clip, INSTRUCTION, tmp_path / "stopped.mp4", steps=200))
    next(step for step in run if isinstance(step, JobStep) and step.step == 1)
    began = time.monotonic()
    run.close()  # in the middle of a later step
    assert time.monotonic() - began < 10 and not list(tmp_path.iterdir())
    with pytest.raises(EditError, match="the source video itself"):
        edit(jobs, clip, clip)
    with pytest.raises(KeyError, match="a secret"):
        list(workers.run(partial(failing, KeyError("a secret"))))
    with pytest.raises(EditFailedError, match="ran out of memory"):
        list(workers.run(partial(failing, RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"))))
    with pytest.raises(KeyError, match="between two steps"):
        list(workers.run(half_a_run))
    with pytest.raises(EditFailedError, match="longer than the 1 seconds"):
        list(workers.run(endless, seconds=1.0))
    assert list(workers.run(partial(steps, 2))) == [1, 2, None]
    assert workers.numbers == before  # none of this cost a process
    said = caplog.text + "".join(capfd.readouterr())
    assert "(edit): stopped" in said
    assert "snowy" not in said and "clip.mp4" not in said


def test_a_worker_that_dies_costs_one_job(jobs, workers, clip, tmp_path):
    for victim in (0, 1):
        before = workers.numbers
        run = jobs.edit(EditRequest(clip, INSTRUCTION, tmp_path / "lost.mp4", steps=200))
        next(step for step in run if isinstance(step, JobStep) and step.step == 1)
        os.kill(before[victim], signal.SIGKILL)
        with pytest.raises(EditFailedError) as lost:
            list(run)
        assert "One of the 2 worker processes ended (killed" in str(lost.value)
        assert sentence(lost.value).endswith("kept.") and "ref " not in sentence(lost.value)
        workers.wait()  # they are coming back by themselves
        assert not set(before) & set(workers.numbers)
        assert not any(psutil.pid_exists(number) for number in before)
    os.kill(workers.numbers[1], signal.SIGKILL)  # while nothing is at work
    dead = workers._group
    deadline = time.monotonic() + 60
    while workers._group is dead and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers._group is not dead
    edit(jobs, clip, tmp_path / "next.mp4")
    assert [path.name for path in sorted(tmp_path.glob("*.mp4"))] == ["next.mp4"]


def test_workers_that_do_not_stop_are_started_again(workers, monkeypatch):
    monkeypatch.setattr(group, "STOP_SECONDS", 0.2)
    before, run = workers.numbers, workers.run(silent)
    assert next(run) == before[0]
    run.close()
    assert list(workers.run(partial(steps, 1))) == [1, None]
    assert not set(before) & set(workers.numbers)


def test_a_monitor_and_the_end_of_the_app(settings, jobs, clip, tmp_path):
    app = Jobs(Settings(**settings, gpus=2, device="cpu", time_limit=0.05))
    with gr.Blocks() as demo:
        gr.HTML("")
    demo.queue()
    client = TestClient(gr.routes.App.create_app(demo, app_kwargs=app_options(demo, app)))

    def health():
        answer = client.get("/healthz")
        return answer.status_code, answer.json()

    assert health()[1]["status"] == "loading" and health()[1]["workers_alive"] == 0
    with pytest.raises(EditFailedError, match="longer than the 0 seconds"):
        edit(app, clip, tmp_path / "slow.mp4", steps=200)
    code, facts = health()
    assert (code, facts["status"], facts["workers_alive"], facts["workers"]) == (200, "ok", 2, 2)
    assert (facts["waiting"], facts["running"], facts["failed"]) == (0, 0, 1)
    children = app.engine.worker_numbers

    object.__setattr__(app.settings, "time_limit", None)
    run, ended = app.edit(EditRequest(clip, INSTRUCTION, tmp_path / "late.mp4", steps=200)), []
    next(step for step in run if isinstance(step, JobStep) and step.step == 1)
    assert health()[1]["running"] == 1

    def consume():
        try:
            list(run)
        except EditFailedError as error:
            ended.append(str(error))

    visitor = threading.Thread(target=consume)
    visitor.start()
    app.close()
    visitor.join(30)
    assert ended == ["The server is being stopped; try again in a few minutes."]
    assert health()[0] == 503 and health()[1]["status"] == "stopping"
    assert not list(tmp_path.iterdir()) and not any(psutil.pid_exists(number) for number in children)
    with pytest.raises(EditFailedError, match="being stopped"):
        edit(app, clip, tmp_path / "too-late.mp4")


@pytest.mark.parametrize(("count", "device", "says"), [(0, "cpu", "cannot be 0"), (2, None, "name the device cpu")])
def test_workers_that_cannot_be_are_refused_in_one_sentence(count, device, says):
    with pytest.raises(EditError, match=says), Workers(count, four_steps_on, device, restart=False) as workers:
        workers.wait()


def test_a_worker_has_a_device_of_its_own():
    with pytest.raises(EditError, match="cannot share the device 'cuda:1'"):
        own_device("cuda:1", 0, 2)
    with pytest.raises(EditError, match=f"There are {torch.cuda.device_count()} GPUs here, not 9"):
        own_device("cuda", 0, 9)
    assert own_device("cpu", 1, 2) == "cpu"


def test_an_app_refuses_impossible_numbers():
    for wrong in ({"gpus": 0}, {"gpus": 2, "zero_gpu": True}, {"time_limit": 0.0}):
        with pytest.raises(ValueError, match=r"number of GPUs|time limit"):
            Settings(**wrong)


# --- From the command line -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    tiny_pipeline(tower=False).save_pretrained(folder)
    return folder


def sama(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "sama", "edit", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_an_edit_on_three_processes_writes_the_same_file(model, clip, tmp_path):
    from sama import cli

    options = ["--model", model, "--steps", "2", "--device", "cpu"]
    shared = sama(clip, INSTRUCTION, "-o", tmp_path / "three.mp4", *options, "--gpus", 3)
    assert (
        cli.main(["edit", str(clip), INSTRUCTION, "-o", str(tmp_path / "one.mp4"), *map(str, options), "--quiet"]) == 0
    )
    out, said = shared.communicate(timeout=200)
    assert (shared.returncode, out.strip()) == (0, str(tmp_path / "three.mp4")), said
    assert (tmp_path / "three.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()
    assert "This edit uses 2 of the 3 GPUs" in said and "Painting step 2 of 2" in said
    kept = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "three")]
    assert {name: value for name, value in kept[0].items() if name not in ("seconds", "output")} == {
        name: value for name, value in kept[1].items() if name not in ("seconds", "output")
    }


def test_no_worker_outlives_its_caller(model, clip, tmp_path):
    run = sama(clip, INSTRUCTION, "-o", tmp_path / "out.mp4", "--model", model, "--device", "cpu", "--gpus", 2,
               "--steps", 200)  # fmt: skip
    for line in run.stderr:
        if line.startswith("Painting step 1 "):
            break
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 2
    run.kill()
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
    gone, left = psutil.wait_procs(family, timeout=30)
    assert not left and len(gone) == len(family)
    assert not (tmp_path / "out.mp4").exists()
