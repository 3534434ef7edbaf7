"""Runs of a pipeline that several processes compute together: the part of `SamaPipeline` that joins and leaves them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from sama.device.attention import attention_of, use_attention
from sama.model.processes import Dismissed, OneProcess, Processes, RunLeft
from sama.pipeline.inputs import SamaInputs
from sama.pipeline.types import SamaRun

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

    from sama.model.transformer import SamaTransformer3DModel


class ParallelRunsMixin:
    """Lets a pipeline share its runs with the processes of a group."""

    transformer: SamaTransformer3DModel
    vae: AutoencoderKLWan
    share_attention: bool
    _processes: Processes | OneProcess
    _denoise: Callable[[Callable[[], SamaRun], SamaInputs], Generator[Any, None, None]]

    def enable_parallel(self, group: dist.ProcessGroup | None = None) -> Processes:
        """Let the processes of `group` (None: all) compute every run together. Each of them calls this, with the same
        weights, after the pipeline has been placed on its device.

        From then on either every process calls the pipeline, with the same arguments, and gets the same result; or the
        first one calls it and the others `follow`. The first process's inputs, noise and callbacks count; any process
        may set `_interrupt`. Guidance passes are spread over the processes first, see `sama.model.split`.
        """
        self.disable_parallel()
        self._processes = processes = Processes(self.transformer, group, self.vae)
        # Processes that share a sequence must compute the same things, whatever memory each of them has, and each of
        # them has tried out the kernels for itself.
        self.share_attention = all(processes.gathered(self.share_attention))
        use_attention(self.transformer, processes.gathered(attention_of(self.transformer))[0])
        return processes

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Around everything that the first process does while the others `follow`: they then take part in
        `encode_video` and `decode_latents`, too. They are dismissed at the end."""
        with self._processes.lead() if isinstance(self._processes, Processes) else nullcontext():
            yield

    def disable_parallel(self) -> None:
        """Let this process compute its runs alone again."""
        if isinstance(self._processes, Processes):
            self._processes.remove()
        self._processes = OneProcess()

    def follow(self) -> None:
        """Take part in the runs of the first process, until its `lead` ends, or it calls `dismiss` on what
        `enable_parallel` gave it.

        Raises what fails here; the processes cannot work together after that.
        """
        nothing = SamaInputs(video=(), prompt="", output_type="latent")  # the first process sends the run
        while True:
            try:
                for _ in self._denoise(_nothing, nothing):
                    pass
            except RunLeft:
                continue
            except Dismissed:
                return


def _nothing() -> SamaRun:
    raise AssertionError("the first process prepares the run")
