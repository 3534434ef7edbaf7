"""A model's LoRA for few steps without guidance: when it is used, with what, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sama import fingerprint, loading
from sama.edit import edit_video, load_pipeline
from sama.edit.editor import extent_of
from sama.edit.request import EditRequest, check_request, few_steps_of, loras_of, sampled
from sama.edit.settings_file import load_settings
from sama.errors import EditError
from sama.presets import FEW_STEPS_FILE, PRESETS, own_few_steps
from sama.shapes import Bucket, Canvas
from sama.video import read_clip
from sama.workers import edit as on_workers
from tests.media import make_clip
from tests.tiny import TEXT_DIM, tiny_pipeline
from training.config import LoraConfig
from training.stages.lora import add_adapter, export_lora
from ui.jobs.jobs import Edited, Jobs
from ui.settings import Settings

SMALL = Canvas((Bucket(64, 48), Bucket(48, 64)), window=5, overlap=2).settings()


def lora(folder, name, seed):
    """A LoRA with a visible effect."""
    transformer = tiny_pipeline(tower=False).transformer
    for weight in add_adapter(transformer, LoraConfig(rank=2), seed):
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(seed))
    return export_lora(transformer, folder, LoraConfig(rank=2, name=name))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A saved pipeline that carries a LoRA for few steps, a user's LoRA, and a clip."""
    folder = tmp_path_factory.mktemp("few")
    tiny_pipeline(**SMALL).save_pretrained(folder / "model")
    lora(folder / "model", FEW_STEPS_FILE.removesuffix(".safetensors"), 1)
    return folder / "model", lora(folder, "neon", 2), make_clip(folder / "clip.mp4", frames=5, width=96, height=72)


@pytest.fixture
def preset(made, monkeypatch):
    """The preset `tiny`, for a while that saved pipeline."""
    monkeypatch.setitem(PRESETS["tiny"].__dict__, "folder", made[0])
    return made


def request(clip, output, **changes):
    return EditRequest(**{"video": clip, "instruction": "Make it red", "output": output, "keep_source": "off",
                          "detail": "off", "device": "cpu"} | changes)  # fmt: skip


def test_the_quality_fast_uses_it_unless_the_user_says_how_to_sample(preset, tmp_path):
    own = str(preset[0] / FEW_STEPS_FILE)
    fast = EditRequest("a", "b", "c.mp4", quality="fast")
    told = sampled(fast)
    assert (told.few_steps, told.steps, told.guidance, told.scheduler) == ("own", 4, 1.0, "euler")
    assert sampled(told) == told and few_steps_of(fast) == own
    assert loras_of(replace(fast, lora=("x@0.5",))) == (own, "x@0.5")
    assert loras_of(replace(fast, steps=4, guidance=1.0)) == (own,)  # as the page says it
    by_hand = ({"steps": 5}, {"guidance": 2.0}, {"scheduler": "unipc"}, {"guidance_interval": (0.0, 1.0)},
               {"cache": 0.1}, {"source_guidance": 2.0}, {"few_steps": "off"}, {"quality": "balanced"},
               {"quality": None, "steps": 4, "guidance": 1.0},
               {"preset": "14b"}, {"model": tmp_path})  # fmt: skip
    for changes in by_hand:
        assert loras_of(replace(fast, **changes)) == () and sampled(replace(fast, **changes)).few_steps == "off"
    plain = replace(fast, quality=None)
    assert (sampled(plain).quality, sampled(plain).few_steps, sampled(plain).steps) == ("fast", "own", 4)
    others = ({"steps": 10}, {"guidance": 2.0}, {"negative_prompt": "rain"}, {"few_steps": "off"}, {"model": "x"},
              {"lora": ("x.safetensors",)})  # fmt: skip
    for changes in others:
        told = sampled(replace(plain, **changes))  # the model's own defaults for what is not given
        assert (told.quality, told.few_steps) == ("balanced", "off")
        assert (told.steps, told.guidance) == (changes.get("steps"), changes.get("guidance"))
    published = sampled(replace(fast, preset="14b", few_steps="owner/name/four.safetensors"))
    assert (published.steps, published.guidance, published.guidance_interval) == (4, 1.0, None)
    assert published.scheduler == "euler" and loras_of(published) == ("owner/name/four.safetensors",)
    assert sampled(EditRequest("a", "b", "c.mp4", preset="14b", few_steps="x.safetensors")).quality == "fast"
    with pytest.raises(EditError, match="carries no LoRA for few steps"):
        few_steps_of(replace(fast, preset="14b", few_steps="own"))


def test_an_edit_wears_it_repeats_it_and_joins_it_with_a_users_lora(preset, tmp_path):
    model, neon, clip = preset

    def edited(name, **changes):
        result = list(edit_video(request(clip, tmp_path / f"{name}.mp4", **changes)))[-1].result
        return result, read_clip(result.output).astype(int)

    result, fast = edited("fast", quality="fast")
    values = load_settings(result.settings)
    assert (values["few_steps"], values["steps"], values["guidance"]) == ("own", 4, 1.0)
    old = tmp_path / "old.json"  # of a version that knew none
    old.write_text(result.settings.read_text().replace('"few_steps": "own",', ""))
    assert load_settings(old)["few_steps"] == "off"
    again = list(edit_video(EditRequest(**values | {"output": tmp_path / "again.mp4"})))[-1].result
    assert np.array_equal(read_clip(again.output), fast)
    off = edited("off", quality="fast", few_steps="off")[1]
    assert np.array_equal(edited("hand", steps=4, guidance=1.0)[1], off) and np.abs(fast - off).mean() > 2
    file = tmp_path / "elsewhere.safetensors"
    file.write_bytes((model / FEW_STEPS_FILE).read_bytes())
    named, by_name = edited("named", few_steps=str(file))
    assert np.array_equal(by_name, fast) and load_settings(named.settings)["few_steps"] == str(file)

    both = edited("both", quality="fast", lora=(f"{neon}@0.5",))[1]
    assert min(np.abs(both - fast).mean(), np.abs(both - off).mean()) > 2
    wearing = request(clip, tmp_path / "w.mp4", quality="fast", lora=(f"{neon}@0.5",))
    pipeline = on_workers._load(wearing, extent_of(check_request(wearing)), "cpu", leads=True)
    assert pipeline.get_active_adapters() == ["lora_0", "lora_1"]
    given = request(clip, tmp_path / "g.mp4", quality="fast", few_steps="own", lora=(f"{neon}@0.5",))
    result = list(edit_video(given, pipeline))[-1].result
    assert np.array_equal(read_clip(result.output), both)
    open_ = replace(given, output=tmp_path / "o.mp4", few_steps=None)  # the caller's pipeline is taken as it is
    assert (
        load_settings(list(edit_video(open_, load_pipeline("tiny", "cpu")))[-1].result.settings)["few_steps"] == "off"
    )
    assert fingerprint.of_pipeline(pipeline) == fingerprint.of_pipeline(load_pipeline("tiny", "cpu"))

    # The app: worn for one job, off for the next, and joined with what the visitor chose.
    jobs = Jobs(Settings(warm=False, lora=(str(neon),), device="cpu"))

    def shown(name, **changes):
        *_, last = jobs.edit(request(clip, tmp_path / f"app-{name}.mp4", **changes))
        assert isinstance(last, Edited)
        return read_clip(tmp_path / f"app-{name}.mp4")

    chosen = next(iter(jobs.settings.loras.values())).spec(0.5)
    assert np.array_equal(shown("fast", quality="fast"), fast)
    assert np.array_equal(shown("hand", steps=4, guidance=1.0), off)
    assert np.array_equal(shown("both", quality="fast", lora=(chosen,)), both)


def test_what_is_not_there_is_refused_and_what_is_on_the_hub_is_fetched(preset, tmp_path, monkeypatch):
    _, neon, clip = preset
    wrong = {str(tmp_path / "no.safetensors"): "There is no LoRA file", "": "give a file, own or off",
             str(clip): "not a safetensors file"}  # fmt: skip
    for few_steps, said in wrong.items():
        with pytest.raises(EditError, match=said):
            check_request(request(clip, tmp_path / "out.mp4", few_steps=few_steps))
    asked = []

    def download(repo, name):
        asked.append((repo, name))
        return str(neon)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    there = request(clip, tmp_path / "out.mp4", few_steps="owner/name/sub/four.safetensors")
    check_request(there)
    assert not asked
    pipeline = loading.load_pipeline("tiny", "cpu", loras_of(there))
    assert asked == [("owner/name", "sub/four.safetensors")] and pipeline.get_active_adapters() == ["lora_0"]


def test_published_files_for_few_steps_load(tmp_path):
    """The form of those published for Wan2.1: pairs, biases and differences of norms, modulations and embeddings."""
    pipe = tiny_pipeline(tower=False)
    names = {
        "blocks.0.self_attn.q": (48, 48), "blocks.0.cross_attn.o": (48, 48), "blocks.1.ffn.0": (64, 48),
        "text_embedding.0": (48, TEXT_DIM), "time_projection.1": (288, 48), "head.head": (64, 48),
    }  # fmt: skip
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, (out, inner) in names.items():
        for part, shape in (("lora_down.weight", (4, inner)), ("lora_up.weight", (out, 4)), ("diff_b", (out,))):
            weights[f"diffusion_model.{name}.{part}"] = torch.randn(shape, generator=random).bfloat16()
    for name, shape in (("blocks.0.self_attn.norm_q.diff", (48,)), ("blocks.0.norm3.diff_b", (48,)),
                        ("blocks.0.diff_m", (1, 6, 48)), ("patch_embedding.diff_b", (48,))):  # fmt: skip
        weights[f"diffusion_model.{name}"] = torch.ones(shape).bfloat16()
    save_file(weights, tmp_path / "four.safetensors")
    before = pipe.transformer.blocks[0].attn1.to_q.weight.detach().clone()
    bias = pipe.transformer.blocks[0].attn1.to_q.bias.detach().clone()
    pipe.load_lora_weights(tmp_path / "four.safetensors")
    assert "4 differences are left out" in pipe.lora_notices[0]
    pipe.fuse_lora()
    key = "diffusion_model.blocks.0.self_attn.q"
    q = pipe.transformer.blocks[0].attn1.to_q
    change = weights[f"{key}.lora_up.weight"].float() @ weights[f"{key}.lora_down.weight"].float()
    torch.testing.assert_close(q.weight, before + change)
    torch.testing.assert_close(q.bias, bias + weights[f"{key}.diff_b"].float())


def test_the_shipped_model_carries_one_that_is_checked(tmp_path):
    file = own_few_steps("tiny")
    if file is None:
        pytest.skip("no LoRA for few steps is shipped")
    assert file.stat().st_size < 9.5e6
