"""A run that was killed is not lost: its checkpoint edits clips, and another run starts from it."""

import pytest
import torch
from safetensors.torch import load_file

from sama import cli
from sama.video import probe
from tests.distributed.test_resume import ADAMW, base, configured, logged, start  # noqa: F401 - a fixture
from tests.media import make_clip
from training import export

pytestmark = pytest.mark.distributed
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_a_killed_run_becomes_a_model_and_the_start_of_another(tmp_path, base):  # noqa: F811
    common = {"precision": "float32", "optimiser": ADAMW}
    killed = configured(tmp_path / "killed", base, **common, max_steps=10**6, save={"steps": 2, "keep": 2})
    session = start(killed, 1)
    session.wait_until(lambda: (killed / "checkpoints" / "step-00000004").is_dir())
    session.kill()
    assert not (killed / "transformer").exists()

    assert export.main([str(killed), str(tmp_path / "exported")]) == 0
    clip, edited = make_clip(tmp_path / "in.mp4", frames=5, width=96, height=54), tmp_path / "out.mp4"
    given = [str(clip), "Make it snowy", "-o", str(edited), "--steps", "1"]
    assert cli.main(["edit", *given, "--model", str(tmp_path / "exported")]) == 0
    assert probe(edited).frames == 5

    second = configured(tmp_path / "second", base, **common, max_steps=1, start_from=str(killed))
    start(second, 1).finish()
    (first,) = logged(second)
    assert 0 < first["loss"] < 100 and "starting from the averaged weights of" in (second / "told.txt").read_text()
    begun, ended = load_file(tmp_path / "exported" / WEIGHTS), load_file(second / WEIGHTS)
    assert begun.keys() == ended.keys()
    moved = [(ended[name] - value).abs().max() for name, value in begun.items()]
    # One step of AdamW moves a weight by its rate, a third of 2e-3 while it warms up; random weights are far away.
    assert 0 < torch.stack(moved).max() < 1e-2
    assert all(value.isfinite().all() for value in ended.values())
    assert (
        cli.main(["edit", *given[:2], "-o", str(tmp_path / "again.mp4"), "--steps", "1", "--model", str(second)]) == 0
    )
