"""One evaluation of a random model, shared by the GPUs of a group: what `benchmarks.speed` starts for `gpus`.

    torchrun --nproc-per-node 2 -m benchmarks.shared_step --model 14b

The first process prints a line of JSON: seconds of the median evaluation, compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time


def main() -> int:
    import torch
    import torch.distributed as dist

    from benchmarks.random_model import RandomModel
    from sama.device.placement import compile_blocks, work_of
    from sama.model.parallel import sequence_parallel
    from sama.shapes import NUM_SEMANTIC_TOKENS, latent_shape

    parser = argparse.ArgumentParser(description="Time one evaluation that several GPUs share.")
    parser.add_argument("--model", default="14b")
    for name, value in (("frames", 81), ("height", 480), ("width", 832), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    rank = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and options.model != "toy"
    device = f"cuda:{rank}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if cuda else "gloo")
    everyone = dist.group.WORLD
    assert everyone is not None  # it was just made
    pipeline = RandomModel.draw(options.model, device, ("transformer",)).pipeline()
    model, config = pipeline.transformer.to(device), pipeline.transformer.config
    if cuda:
        compile_blocks(pipeline)
    random = torch.Generator().manual_seed(3)
    shape = latent_shape(options.frames, options.height, options.width)

    def noise(*sides: int) -> torch.Tensor:
        return torch.randn(1, *sides, generator=random).to(device, model.dtype)

    inputs = {
        "hidden_states": noise(config["in_channels"], *shape),
        "timestep": torch.full((1,), 500.0, device=device),
        "encoder_hidden_states": noise(512, config["text_dim"]),
        "source_hidden_states": noise(config["in_channels"], *shape),
        "semantic_hidden_states": noise(NUM_SEMANTIC_TOKENS, config["semantic_dim"]),
    }
    times = []
    with torch.no_grad(), sequence_parallel(model, everyone):
        for _ in range(options.runs + 2):
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
            out = model(**inputs).sample
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    tokens = work_of(pipeline, options.frames, options.height, options.width).tokens
    told = {"seconds": statistics.median(times[2:]), "tokens": tokens, "finite": bool(torch.isfinite(out).all())}
    if rank == 0:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
