"""An edit on several processes: those that are started for it, or those that a launcher has started."""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from sama.edit.editor import Extent, edit_video, extent_of
from sama.edit.events import EditEvent
from sama.edit.request import EditRequest, check_request, loras_of, sampled
from sama.errors import EditError
from sama.workers.group import Workers
from sama.workers.worker import join_group, own_device

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline


def edit_on_workers(request: EditRequest, gpus: int, quiet: bool = True) -> Generator[EditEvent, None, None]:
    """`sama.edit.edit_video` on `gpus` worker processes, which are started for it and end with it.

    Events, errors and closing are the same. `request.device` is "cuda", "cpu" or None for CUDA.
    """
    job = check_request(request)
    _refuse_cache(request)
    request = job.request
    load = partial(_load, request, extent_of(job))
    with Workers(gpus, load, request.device, restart=False, quiet=quiet) as workers:
        yield EditEvent("planning", windows=len(job.plan.windows), message=f"Loading the model on {gpus} workers")
        yield from workers.run(partial(edit_shared, request))


def launched() -> bool:
    """Whether a launcher such as torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def edit_as_launched(request: EditRequest) -> Generator[EditEvent, None, None]:
    """`sama.edit.edit_video` by all processes of a launcher, each of which calls this; only the first one yields
    events."""
    import torch
    import torch.distributed as dist

    rank, here = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    extent: list[Any] = [None]
    if rank == 0:
        extent = [extent_of(check_request(request))]
    _refuse_cache(request)
    request = sampled(request)
    device = own_device(request.device, here, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    join_group(device)
    try:
        dist.broadcast_object_list(extent, device=torch.device(device))  # the clip may be on the first machine only
        pipeline = _load(request, extent[0], device, rank == 0)
        pipeline.enable_parallel()
        if rank:
            pipeline.follow()
            return
        with pipeline.lead():
            yield from edit_shared(request, pipeline)
    finally:
        dist.destroy_process_group()


def edit_shared(request: EditRequest, pipeline: SamaPipeline) -> Generator[EditEvent, None, None]:
    """An edit by the first process of a pipeline that runs on several; it says so where some are not needed."""
    _refuse_cache(request)
    if said := told_unused_gpus(request, pipeline):
        yield EditEvent("planning", message=said, warning=said)
    yield from edit_video(request, pipeline=pipeline)


def told_unused_gpus(request: EditRequest, pipeline: SamaPipeline) -> str:
    """One sentence for the user where an edit cannot use all processes of a pipeline; "" where it uses them."""
    from sama.model.processes import Processes
    from sama.model.split import told_unused
    from sama.pipeline.schedule import guidance_passes

    processes = pipeline._processes
    if not isinstance(processes, Processes):
        return ""
    request = sampled(request)
    guidance = pipeline.config["default_guidance"] if request.guidance is None else request.guidance
    return told_unused(processes.size, processes.heads, guidance_passes(guidance, request.source_guidance))


def _refuse_cache(request: EditRequest) -> None:
    if request.cache is not None:
        raise EditError("The cache works on one GPU only; leave --cache or --gpus out.")


def _load(request: EditRequest, extent: Extent, device: str, leads: bool) -> SamaPipeline:
    from sama.loading import load_pipeline

    return load_pipeline(
        request.preset, device, loras_of(request), request.model, request.memory, request.compile, *extent, texts=leads
    )
