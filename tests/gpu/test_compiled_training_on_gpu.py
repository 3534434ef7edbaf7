"""A compiled training run on a CUDA device, with generated kernels: the losses of the same run uncompiled."""

import pytest
import torch

from tests.unit.test_training_runs import (  # noqa: F401 - fixtures
    MODEL,
    as_before,
    base,
    configured,
    initial,
    losses,
    media,
    strayed,
)
from training.train import main as train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_run_is_the_same_run(tmp_path, base, media, precision):  # noqa: F811
    sets = [{"manifest": str(media / f"{kind}.jsonl")} for kind in ("mp4", "png")]
    common = {"stage": "sft", "model": MODEL, "max_steps": 4, "precision": precision}
    for name, compiled in (("plain", False), ("compiled", True)):
        path = configured(tmp_path / name, base, *sets, compile=compiled, **common)
        assert train(["--config", str(path)]) == 0
        start = initial(path)
    found, expected = (losses(tmp_path / name / "run", 4) for name in ("compiled", "plain"))
    assert found == pytest.approx(expected, rel=1e-2)
    assert strayed(tmp_path / "compiled" / "run", tmp_path / "plain" / "run", start) < 0.3
