import pytest
import torch
from diffusers import WanTransformer3DModel

from sama.checkpoints import load_transformer
from sama.model.transformer import SamaTransformer3DModel
from tests.tiny import GOLDEN, SEMANTIC_DIM, TEXT_DIM, golden_arguments, golden_tensors, tiny_transformer


@pytest.fixture(scope="module")
def golden():
    return golden_tensors()


@pytest.fixture(scope="module")
def golden_model():
    return load_transformer(GOLDEN / "tiny_weights.safetensors", golden_arguments())


def inputs(seed=0, frames=2, height=4, width=6):
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "hidden_states": noise(1, 16, frames, height, width),
        "timestep": torch.tensor([600.0]),
        "encoder_hidden_states": noise(1, 8, TEXT_DIM),
        "source_hidden_states": noise(1, 16, frames, height, width),
        "semantic_hidden_states": noise(1, 65, SEMANTIC_DIM),
    }


@torch.no_grad()
def evaluate(model, **changes):
    return model(**(inputs() | changes))


@torch.no_grad()
def golden_forward(model, golden, source=True, semantic=True):
    return model(
        hidden_states=golden["noise"],
        timestep=golden["timestep"],
        encoder_hidden_states=golden["context"],
        source_hidden_states=golden["source_latents"] if source else None,
        semantic_hidden_states=golden["semantic_noise"] if semantic else None,
    )


def test_a_forward_agrees_with_the_official_code(golden_model, golden):
    out = golden_forward(golden_model, golden)
    torch.testing.assert_close(out.sample, golden["out_velocity"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.semantic, golden["out_semantic"], atol=1e-5, rtol=0)
    loss = (out.semantic - golden["semantic_target"]).abs().mean()
    torch.testing.assert_close(loss, golden["out_semantic_l1"][0], atol=1e-5, rtol=0)


def test_a_forward_without_anchors_agrees_with_the_official_code(golden_model, golden):
    out = golden_forward(golden_model, golden, semantic=False)
    torch.testing.assert_close(out.sample, golden["out_velocity_without_semantic"], atol=1e-5, rtol=0)
    assert out.semantic is None


def test_a_forward_without_a_source_agrees_with_the_official_code(golden_model, golden):
    out = golden_forward(golden_model, golden, source=False)
    torch.testing.assert_close(out.sample, golden["out_velocity_without_source"], atol=1e-5, rtol=0)


def permuted_anchors():
    tokens = inputs()["semantic_hidden_states"]
    order = torch.cat([torch.randperm(64, generator=torch.Generator().manual_seed(1)), torch.tensor([64])])
    return tokens[:, order], order


def test_anchors_on_the_grid_belong_to_their_places():
    model = tiny_transformer("grid")
    tokens, order = permuted_anchors()
    straight, permuted = evaluate(model), evaluate(model, semantic_hidden_states=tokens)
    assert (straight.sample - permuted.sample).abs().max() > 1e-3
    assert (straight.semantic[:, order] - permuted.semantic).abs().max() > 1e-3


def test_anchors_without_positions_are_a_set():
    model = tiny_transformer("none")
    tokens, order = permuted_anchors()
    straight, permuted = evaluate(model), evaluate(model, semantic_hidden_states=tokens)
    torch.testing.assert_close(straight.sample, permuted.sample, atol=1e-5, rtol=0)
    torch.testing.assert_close(straight.semantic[:, order], permuted.semantic, atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["none", "grid"])
def test_every_input_is_seen(positions):
    model = tiny_transformer(positions)
    straight = evaluate(model)
    for name, other in inputs(seed=1).items():
        if name != "timestep":
            changed = evaluate(model, **{name: other})
            assert (straight.sample - changed.sample).abs().max() > 1e-4, name
            assert (straight.semantic - changed.semantic).abs().max() > 1e-4, name


def test_the_type_embedding_starts_at_zero_and_then_tells_the_segments_apart():
    assert not SamaTransformer3DModel(**model_arguments()).segment_embedding.weight.any()
    model = tiny_transformer()
    straight = evaluate(model)
    for segment in range(3):
        changed = tiny_transformer()
        changed.load_state_dict(model.state_dict())
        changed.segment_embedding.weight.data[segment] *= -1
        assert (straight.sample - evaluate(changed).sample).abs().max() > 1e-4


def test_alone_with_its_target_it_is_wan():
    model = SamaTransformer3DModel(**model_arguments()).eval()
    wan_arguments = {name: value for name, value in model_arguments().items() if not name.startswith("semantic")}
    wan = WanTransformer3DModel(**wan_arguments).eval()
    wan.load_state_dict({name: model.state_dict()[name] for name in wan.state_dict()})
    given = inputs()
    with torch.no_grad():
        expected = wan(given["hidden_states"], given["timestep"], given["encoder_hidden_states"]).sample
    out = evaluate(model, source_hidden_states=None, semantic_hidden_states=None)
    torch.testing.assert_close(out.sample, expected, atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter_and_checkpointing_changes_none():
    model = tiny_transformer().train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        out = model(**inputs())
        (out.sample.square().mean() + out.semantic.square().mean()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        model.enable_gradient_checkpointing()
    assert all(gradient.abs().max() > 0 for name, gradient in gradients[0].items() if "norm_added" not in name)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_batch_of_two_is_two_batches_of_one():
    model = tiny_transformer().train()

    def loss_and_gradients(given):
        model.zero_grad()
        out = model(**given)
        loss = (out.sample - 0.3).square().mean() + 0.1 * (out.semantic - 0.2).abs().mean()
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

    singles = [inputs(seed=seed) | {"timestep": torch.tensor([300.0 * seed + 200])} for seed in (0, 1)]
    both = {name: torch.cat([single[name] for single in singles]) for name in singles[0]}
    first, second = (loss_and_gradients(single) for single in singles)
    mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(loss_and_gradients(both), mean, atol=1e-5, rtol=1e-5)


def test_the_library_s_memory_savers_work_on_it():
    model = tiny_transformer()
    expected = evaluate(model).sample
    cpu = torch.device("cpu")
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    torch.testing.assert_close(evaluate(model).sample, expected, atol=1e-5, rtol=0)
    small = tiny_transformer()
    small.load_state_dict(model.state_dict())
    small.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert small.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    error = (evaluate(small).sample - expected).norm() / expected.norm()
    assert 0 < error < 0.3


def test_a_source_of_another_size_is_refused():
    with pytest.raises(ValueError, match="source latents"):
        evaluate(tiny_transformer(), source_hidden_states=torch.zeros(1, 16, 3, 4, 6))


def test_unknown_positions_are_refused():
    with pytest.raises(ValueError, match="semantic_positions"):
        tiny_transformer("spiral")


def model_arguments():
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "semantic_dim": SEMANTIC_DIM,
        "semantic_hidden_dim": 32,
    }
