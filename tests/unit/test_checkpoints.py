import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from sama.checkpoints import from_base_wan, from_official, load_transformer, read_state_dict, save_official, to_official
from sama.errors import CheckpointError
from tests.tiny import GOLDEN, golden_arguments, tiny_pipeline

WEIGHTS = GOLDEN / "tiny_weights.safetensors"
ADDED = ("segment_embedding", "siglip_feat_mlp", "semantic_head")


@pytest.fixture(scope="module")
def official():
    return load_file(WEIGHTS)


@pytest.fixture(scope="module")
def model():
    return load_transformer(WEIGHTS, golden_arguments())


def base(official):
    return {name: tensor for name, tensor in official.items() if not name.startswith(ADDED)}


def assert_same_weights(model, official):
    for name, tensor in to_official(model.state_dict()).items():
        assert torch.equal(tensor, official[name]), name


# --- Names -----------------------------------------------------------------------------------------------------------


def test_the_two_ways_of_naming_are_inverse(official, model):
    ours = from_official(official)
    assert set(ours) == set(model.state_dict())
    back = to_official(ours)
    assert list(back) == list(official)
    assert all(back[name] is official[name] for name in official)


@pytest.mark.parametrize("prefix", ["pipe.dit.", "model.diffusion_model.", "diffusion_model.", "module.pipe.dit."])
def test_prefixes_are_recognised(official, prefix):
    prefixed = {prefix + name: tensor for name, tensor in official.items()}
    assert from_official(prefixed).keys() == from_official(official).keys()


@pytest.mark.parametrize(
    "key", ["img_emb.proj.1.weight", "blocks.0.cross_attn.k_img.weight", "vae.conv.bias", "blocks.0"]
)
def test_foreign_names_are_named(official, key):
    with pytest.raises(CheckpointError, match=key):
        from_official({**official, key: torch.zeros(1)})
    with pytest.raises(CheckpointError, match=key):
        to_official({key: torch.zeros(1)})


def test_one_name_in_two_spellings_is_refused(official):
    with pytest.raises(CheckpointError, match=r"pipe\.dit\.head\.head\.bias"):
        from_official({**official, "pipe.dit.head.head.bias": torch.zeros(1)})


# --- Files -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_model(official, tmp_path):
    torch.save(official, tmp_path / "plain.pt")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in official.items()}}, tmp_path / "wrapped.bin"
    )
    names = sorted(official)
    shards = {"a-00001-of-00002.safetensors": names[:40], "a-00002-of-00002.safetensors": names[40:]}
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard, held in shards.items():
        save_file({name: official[name] for name in held}, folder / shard)
    sources = [tmp_path / "plain.pt", tmp_path / "wrapped.bin", folder]
    for source in sources:
        assert_same_weights(load_transformer(source, golden_arguments()), official)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "a.safetensors.index.json").write_text(json.dumps(index))
    for source in (folder, folder / "a.safetensors.index.json"):
        assert_same_weights(load_transformer(source, golden_arguments()), official)
    (folder / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="a-00002-of-00002"):
        load_transformer(folder, golden_arguments())


def test_saved_models_and_pipelines_bring_their_configuration(model, official, tmp_path):
    model.save_pretrained(tmp_path / "model", max_shard_size="1MB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    assert_same_weights(load_transformer(tmp_path / "model"), official)
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = load_transformer(tmp_path / "pipe")
    assert torch.equal(loaded.segment_embedding.weight, pipe.transformer.segment_embedding.weight)
    assert loaded.config["semantic_positions"] == "grid"


def test_an_export_has_official_names_and_loads_again(model, official, tmp_path):
    save_official(model, tmp_path / "export.safetensors")
    exported = load_file(tmp_path / "export.safetensors")
    assert exported.keys() == official.keys()
    assert all(torch.equal(exported[name], official[name]) for name in official)
    save_official(model, tmp_path / "export.safetensors", torch.bfloat16)
    assert load_file(tmp_path / "export.safetensors")["head.head.weight"].dtype == torch.bfloat16
    assert [file.name for file in tmp_path.iterdir()] == ["export.safetensors"]


def test_a_failed_export_leaves_no_file(tmp_path):
    with pytest.raises(CheckpointError):
        save_official(torch.nn.Linear(2, 2), tmp_path / "export.safetensors")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_checkpoints_are_refused(official, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"not a checkpoint")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:100_000])
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "code.pt")
    (tmp_path / "empty").mkdir()
    for name in (
        "broken.safetensors",
        "broken.pt",
        "notes.txt",
        "cut.safetensors",
        "list.pt",
        "code.pt",
        "empty",
        "none",
    ):
        with pytest.raises(CheckpointError, match=name):
            read_state_dict(tmp_path / name)


def test_a_folder_with_several_checkpoints_is_ambiguous(official, tmp_path):
    for name in ("one", "two"):
        save_file(official, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="several checkpoints"):
        load_transformer(tmp_path, golden_arguments())


# --- Strictness ------------------------------------------------------------------------------------------------------


def test_a_missing_key_is_named(official, tmp_path):
    partial = {name: tensor for name, tensor in official.items() if name != "semantic_head.proj.bias"}
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks semantic_head\.proj\.bias"):
        load_transformer(tmp_path / "partial.safetensors", golden_arguments())


def test_many_missing_keys_are_counted_and_a_base_model_is_recognised(official, tmp_path):
    save_file(base(official), tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks .* and 8 more.*base Wan checkpoint"):
        load_transformer(tmp_path / "base.safetensors", golden_arguments())


def test_a_foreign_key_is_named(official, tmp_path):
    save_file({**official, "img_emb.proj.1.bias": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"img_emb\.proj\.1\.bias is foreign"):
        load_transformer(tmp_path / "other.safetensors", golden_arguments())


def test_another_size_and_another_depth_are_named():
    with pytest.raises(
        CheckpointError, match=r"blocks\.0\.ffn\.net\.0\.proj\.weight \[192, 96\] instead of \[128, 96\]"
    ):
        load_transformer(WEIGHTS, golden_arguments() | {"ffn_dim": 128})
    with pytest.raises(CheckpointError, match=r"blocks\.2\."):
        load_transformer(WEIGHTS, golden_arguments() | {"num_layers": 2})
    with pytest.raises(CheckpointError, match=r"blocks\.3\."):
        load_transformer(WEIGHTS, golden_arguments() | {"num_layers": 4})
    with pytest.raises(CheckpointError, match="name the preset"):
        load_transformer(WEIGHTS)


def test_low_precision_keeps_what_diffusers_keeps(model, tmp_path):
    model.save_pretrained(tmp_path)
    expected = type(model).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    loaded = load_transformer(WEIGHTS, golden_arguments(), torch.bfloat16)
    expected_dtypes = {name: parameter.dtype for name, parameter in expected.named_parameters()}
    assert {name: parameter.dtype for name, parameter in loaded.named_parameters()} == expected_dtypes
    assert set(expected_dtypes.values()) == {torch.bfloat16, torch.float32}
    assert loaded.dtype == torch.bfloat16
    assert not any(buffer.is_meta for buffer in loaded.buffers())
    assert not loaded.training


# --- From a base model -----------------------------------------------------------------------------------------------


def test_a_base_model_becomes_a_fresh_sama_model(official, tmp_path):
    config = golden_arguments()
    fresh = from_base_wan(base(official), config, seed=1)
    for name, tensor in to_official(fresh.state_dict()).items():
        if not name.startswith(ADDED):
            assert torch.equal(tensor, official[name]), name
    assert not fresh.segment_embedding.weight.any()
    assert all(parameter.isfinite().all() and not parameter.is_meta for parameter in fresh.parameters())
    assert fresh.semantic_head.proj.weight.std() > 0.01
    assert fresh.semantic_projector.fc1.weight.abs().max() <= 1152**-0.5

    again, other = from_base_wan(base(official), config, seed=1), from_base_wan(base(official), config, seed=2)
    assert torch.equal(again.semantic_head.proj.weight, fresh.semantic_head.proj.weight)
    assert not torch.equal(other.semantic_head.proj.weight, fresh.semantic_head.proj.weight)

    wan = WanTransformer3DModel(**{name: value for name, value in config.items() if not name.startswith("semantic")})
    wan.load_state_dict({name: fresh.state_dict()[name] for name in wan.state_dict()})
    wan.save_pretrained(tmp_path)
    from_diffusers = from_base_wan(tmp_path, config, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(from_diffusers.parameters(), fresh.parameters(), strict=True))
    latents, text = torch.randn(1, 16, 1, 4, 4), torch.randn(1, 4, config["text_dim"])
    with torch.no_grad():
        out = fresh(latents, torch.tensor([500.0]), text).sample
        torch.testing.assert_close(out, wan(latents, torch.tensor([500.0]), text).sample)


def test_the_global_generator_is_left_alone(official):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    from_base_wan(base(official), golden_arguments())
    assert torch.equal(torch.rand(1), expected)


def test_a_base_model_must_be_whole_and_no_sama_model(official):
    with pytest.raises(CheckpointError, match="SAMA checkpoint already"):
        from_base_wan(official, golden_arguments())
    partial = {name: tensor for name, tensor in base(official).items() if name != "head.modulation"}
    with pytest.raises(CheckpointError, match="lacks scale_shift_table"):
        from_base_wan(partial, golden_arguments())
