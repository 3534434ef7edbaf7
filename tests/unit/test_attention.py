"""Which attention backend a GPU uses; the trial itself runs here on the CPU."""

import pytest
import torch

from sama.device import attention
from sama.device.attention import attention_of, attention_seconds, choose_attention, quickest, use_attention
from tests.tiny import tiny_clip, tiny_pipeline, tiny_transformer

TIMES = {"native": 1.0, "_native_flash": 1.6, "_flash_3": 0.8}


@pytest.fixture
def trials(monkeypatch):
    """The trials that were made; each takes what `TIMES` says, and fails where that says nothing."""
    made = []

    def seconds(name, parts):
        made.append((name, parts[0].shape[1]))
        return TIMES[name]

    monkeypatch.setattr(attention, "attention_seconds", seconds)
    monkeypatch.setattr(torch, "randn", _on_the_cpu(torch.randn))
    monkeypatch.delenv(attention.OVERRIDE, raising=False)
    attention._trial.cache_clear()
    yield made
    attention._trial.cache_clear()


def _on_the_cpu(draw):
    return lambda *shape, device=None, dtype=None: draw(*shape, dtype=dtype)


def test_the_quickest_is_used_and_remembered(trials):
    for _ in range(2):  # another pipeline of the same sizes
        model = tiny_transformer()
        assert choose_attention(model, "cuda:0", 10) == "_flash_3"
        used = {block.attn1.processor._attention_backend.value for block in model.blocks}
        assert used == {block.attn2.processor._attention_backend.value for block in model.blocks} == {"_flash_3"}
    assert [name for name, _ in trials] == list(attention.CANDIDATES)
    assert choose_attention(tiny_transformer(), "cuda:0", 20) == "_flash_3" and trials[-1][1] == 20


def test_nobody_is_overruled(trials, monkeypatch):
    assert choose_attention(tiny_transformer(), "cpu", 10) is None
    model = tiny_transformer()
    use_attention(model, "_native_math")
    assert choose_attention(model, "cuda", 10) is None and attention_of(model) == "_native_math"
    monkeypatch.setenv(attention.OVERRIDE, "native")
    model = tiny_transformer()
    assert choose_attention(model, "cuda", 10) is None and attention_of(model) is None
    assert not trials


def test_a_backend_must_be_clearly_quicker():
    assert quickest({"native": 1.0, "_native_cudnn": 0.96}) == "native"
    assert quickest({"native": 1.0, "_native_cudnn": 0.94, "flash": 0.93}) == "flash"
    assert quickest({"native": 1.0}) == quickest({}) == "native"


def test_a_real_trial_and_an_edit_with_the_backend():
    parts = [torch.randn(1, 8, 2, 16) for _ in range(3)]
    assert 0 < attention_seconds("native", parts) < 1
    with pytest.raises(RuntimeError):
        attention_seconds("_native_cudnn", parts)  # there is no such kernel on a CPU
    pipeline, frames = tiny_pipeline(tower=False), []
    for name in (None, "_native_math"):
        use_attention(pipeline.transformer, name)
        given = {"video": tiny_clip(), "prompt": "a", "output_type": "pt"}
        frames.append(pipeline(**given, generator=torch.Generator().manual_seed(0)).frames)
    assert frames[0].std() > 0.05
    torch.testing.assert_close(*frames, atol=1e-4, rtol=0)
