"""A transformer of random weights and a feed of random latents for `benchmarks.training_speed`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.training_settings import TrainingSetting

if TYPE_CHECKING:
    import torch

    from sama.model.transformer import SamaTransformer3DModel


def random_transformer(arguments: dict[str, Any], frozen: bool, device: torch.device) -> SamaTransformer3DModel:
    """A transformer of random weights made on its device: float32 or, to go under an adapter, bfloat16 but for what
    diffusers keeps in float32."""
    import torch

    from sama.model.transformer import SamaTransformer3DModel
    from training.stages.model import empty_transformer

    model = empty_transformer(arguments)
    random = torch.Generator(device).manual_seed(0)
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            island = any(part in f"{path}.{name}" for part in SamaTransformer3DModel._keep_in_fp32_modules)
            dtype = torch.bfloat16 if frozen and not island else torch.float32
            values = torch.empty(parameter.shape, device=device, dtype=dtype)
            if name == "scale_shift_table":
                values.normal_(std=values.shape[-1] ** -0.5, generator=random)
            elif parameter.ndim > 1:
                values.normal_(std=0.02, generator=random)
            else:
                values.fill_(1.0 if name == "weight" else 0.0)  # norms; biases
            setattr(module, name, torch.nn.Parameter(values))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model.train()


class RandomFeed:
    """A feed that repeats one random batch."""

    def __init__(self, setting: TrainingSetting, arguments: dict[str, Any], device: torch.device) -> None:
        import torch

        from sama.shapes import NUM_SEMANTIC_TOKENS, latent_shape
        from training.core.batch import EncodedBatch

        random = torch.Generator(device).manual_seed(1)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(setting.batch, *shape, generator=random, device=device)

        shape = (arguments["in_channels"], *latent_shape(setting.frames, setting.height, setting.width))
        text = noise(128 if setting.model == "tiny" else 512, arguments["text_dim"])
        semantic = noise(NUM_SEMANTIC_TOKENS, arguments["semantic_dim"])
        self.batch = EncodedBatch(noise(*shape), noise(*shape), text, semantic)

    def batches(self) -> Iterator[Any]:
        """The batch, without end."""
        while True:
            yield self.batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def summary(self) -> str:
        """A line for the log."""
        return "random latents"
