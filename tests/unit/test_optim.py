"""The optimisers by their definitions, in the numbers of docs/training.md: AdamW (0.9, 0.99), weight decay 0.01."""

import pytest
import torch

from tests.unit.test_training_loop import ToyStage, configuration, trainer
from training.config import OptimiserConfig, load_config
from training.core.loop import Trainer

RATE, DECAY = 0.1, 0.01


class Scripted(ToyStage):
    """Every weight's gradient in step n is the n-th of these."""

    gradients = (1.0, -3.0, 0.5, 2.0)

    def loss(self, model, batch, random):
        gradient = self.gradients[self.number - 1]
        loss = gradient * sum(weight.sum() for weight in model.parameters())
        return loss, {"part": loss.detach()}


class Silent(Scripted):
    """Nothing pulls at any weight."""

    gradients = (0.0,) * 4


def trained(folder, name, stage):
    """The weights before a run of four steps at a constant rate, and after it."""
    optimiser = OptimiserConfig(
        name=name, learning_rate=RATE, adam_learning_rate=RATE, warmup_steps=1, decay_share=0.01, clip_norm=1e6
    )
    config = configuration(folder, optimiser=optimiser)
    run = Trainer(config, stage, trainer(config).accelerator)
    before = {weight: value.detach().clone() for weight, value in stage.model.named_parameters()}
    assert run.run() and not int(run.skipped)
    return before, dict(stage.model.named_parameters())


def adamw(weight, gradients, decay):
    mean = square = 0.0
    for step, gradient in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        direction = mean / (1 - 0.9**step) / (square / (1 - 0.99**step)) ** 0.5
        weight = weight * (1 - RATE * decay) - RATE * direction
    return weight


def test_adamw_alone_follows_its_formula_and_decays_matrices(tmp_path):
    before, after = trained(tmp_path, "adamw", Scripted())
    for name, weight in after.items():
        decay = DECAY if weight.ndim > 1 else 0.0
        torch.testing.assert_close(weight.detach(), adamw(before[name], Scripted.gradients, decay), msg=name)


def test_adamw_beside_muon_follows_its_formula_without_decay(tmp_path):
    before, after = trained(tmp_path, "muon", Scripted())
    for name in ("conv_in.weight", "conv_in.bias", "inner.bias", "matrix.bias", "proj_out.weight", "proj_out.bias"):
        torch.testing.assert_close(after[name].detach(), adamw(before[name], Scripted.gradients, 0.0), msg=name)


@pytest.mark.parametrize(
    ("name", "decayed"),
    [
        ("adamw", {"conv_in.weight", "inner.weight", "matrix.weight", "proj_out.weight"}),
        ("muon", {"inner.weight", "matrix.weight"}),
    ],
)
def test_weights_that_nothing_pulls_at_shrink_by_the_decay(tmp_path, name, decayed):
    before, after = trained(tmp_path, name, Silent())
    for weight, value in after.items():
        factor = (1 - RATE * DECAY) ** 4 if weight in decayed else 1.0
        torch.testing.assert_close(value.detach(), before[weight] * factor, atol=0, rtol=1e-6, msg=weight)


def test_a_run_that_says_nothing_has_the_numbers_of_the_paper(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("stage: sft\noutput: runs/x\n")
    config = load_config(path)
    assert config.optimiser.ema_decay == 0.9998
    assert config.optimiser.weight_decay == DECAY
    assert config.objective.semantic_weight == 0.1
    assert config.data.text_dropout == 0.1
