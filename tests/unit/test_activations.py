import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sama.model.transformer import SamaTransformer3DModel
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_transformer
from training.config import ParallelConfig
from training.parallel.activations import checkpoint_activations


class Attentions(TorchDispatchMode):
    """Counts attentions that are computed, forwards only: those of a sequence to itself, and those to the text."""

    def __init__(self):
        super().__init__()
        self.own = self.text = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = str(operation)
        if "scaled_dot_product" in name and "backward" not in name:
            alike = args[0].shape == args[1].shape
            self.own, self.text = self.own + alike, self.text + (not alike)
        return operation(*args, **(kwargs or {}))


def build() -> SamaTransformer3DModel:
    torch.manual_seed(0)
    return tiny_transformer(num_layers=3).train()


def gradients(model):
    random = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=random)

    with Attentions() as counted:
        out = model(
            hidden_states=noise(2, 16, 2, 4, 6),
            timestep=torch.tensor([300.0, 700.0]),
            encoder_hidden_states=noise(2, 8, TEXT_DIM),
            source_hidden_states=noise(2, 16, 2, 4, 6),
            semantic_hidden_states=noise(2, 65, SEMANTIC_DIM),
        )
        (out.sample.square().mean() + out.semantic.square().mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, counted


@pytest.mark.parametrize(
    ("every", "on_host", "texts"),
    [(1, False, 6), (1, True, 6), (2, False, 5)],  # every block's again; of three blocks, two
)
def test_attention_is_computed_once_and_gradients_stay(every, on_host, texts):
    expected, counted = gradients(build())
    assert (counted.own, counted.text) == (3, 3)
    model = build()
    checkpointing = "attention_offload" if on_host else "attention"
    checkpoint_activations(model, ParallelConfig(checkpointing=checkpointing, checkpoint_every=every))
    found, counted = gradients(model)
    assert (counted.own, counted.text) == (3, texts)
    torch.testing.assert_close(found, expected)


def test_ordinary_checkpointing_computes_it_twice():
    model = build()
    model.enable_gradient_checkpointing()
    _, counted = gradients(model)
    assert (counted.own, counted.text) == (6, 6)
