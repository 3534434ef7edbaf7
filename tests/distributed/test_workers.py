"""Workers that edit together: what they give equals one process, jobs end one by one, and a dead worker costs one job."""

import os
import signal
import threading
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch
from multiprocessing import active_children

from sama.edit.request import EditRequest
from sama.errors import EditError, EditFailedError
from sama.workers.group import State, Workers
from tests.media import make_clip
from tests.tiny import tiny_clip, tiny_pipeline
from ui.jobs.jobs import Jobs
from ui.jobs.work import Edited, JobStep
from ui.settings import Settings

pytestmark = pytest.mark.distributed
STEPS = 4


def four_steps():
    return tiny_pipeline(default_steps=STEPS)


@pytest.fixture(scope="module")
def jobs():
    jobs = Jobs(Settings(pipeline_loader=four_steps, warm=False, gpus=2, device="cpu", examples=Settings().examples / "none"))
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=6, width=96, height=54)


def test_jobs(jobs, clip, tmp_path):
    alone = Jobs(Settings(pipeline_loader=four_steps, warm=False))
    for each, name in ((jobs, "two.mp4"), (alone, "one.mp4")):
        events = list(each.edit(EditRequest(clip, "Make it snowy", tmp_path / name)))
        print([type(e).__name__ for e in events])
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    print(jobs.health())
    run = jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "x.mp4"))
    for e in run:
        if isinstance(e, JobStep) and e.step == 1: break
    run.close()
    assert not (tmp_path / "x.mp4").exists()
    run = jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "x.mp4"))
    with pytest.raises(EditFailedError) as said:
        for e in run:
            if isinstance(e, JobStep) and e.step == 1:
                os.kill(jobs.engine._workers._group._processes[1].pid, signal.SIGKILL)
    print(said.value)
    events = list(jobs.edit(EditRequest(clip, "Make it snowy", tmp_path / "x.mp4")))
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    print(jobs.health())
