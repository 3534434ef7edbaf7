"""Several processes compute one run of the pipeline together.

    first process                      every other process
    prepares the run          ->       gets it whole: noise, source, texts, scheduler
      encodes the clip        ->       encodes its part of the picture (`sama.model.vae_parallel`)
    step: its own passes               step: its own passes        (guidance split, sequence shared inside a pass)
          every pass's velocity, on all processes
    scheduler's step                   the same step on the same tensors
    go on, stop, new tensors  ->       does the same
    decodes                   ->       decodes its part, where it follows the first process
    writes                             waits for the next run

Latents are the same bits everywhere: every process takes a pass's velocity from the one process that speaks for it.
What is large and on the devices goes through the group that the user gave (NCCL on GPUs); orders and prepared runs go
through a second group on the CPUs (gloo), in which a process may wait for days without using its GPU.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.serialization import default_restore_location

from sama.device.streaming import release
from sama.model import vae_parallel
from sama.model.parallel import SequenceParallel, sequence_parallel
from sama.model.split import Split, split
from sama.model.transformer import SamaTransformer3DModel

T = TypeVar("T")
Pass = Callable[[], Sequence[Tensor]]
Direction = Literal["encode", "decode"]
Coder = Callable[[Direction, Tensor], Tensor]
"""Pixels to latents or back, as `sama.model.vae_stripes` has them."""
GO_ON, INTERRUPT, LEAVE = 0, 1, 2
_PATIENCE = timedelta(days=30)  # a process waits for the next run as long as the app is idle


class RunLeft(RuntimeError):  # noqa: N818 - no error of this process
    """Another process has left the run: it was stopped there, or it failed there."""


class Dismissed(RuntimeError):  # noqa: N818 - no error
    """The first process starts no further run."""


class OneProcess:
    """`Processes` for a pipeline that runs in a single process: nothing is exchanged."""

    rank, size = 0, 1

    @contextmanager
    def run(self, prepare: Callable[[], T], device: torch.device) -> Iterator[T]:  # noqa: ARG002
        yield prepare()

    def coder(self, clip: Sequence[int]) -> Coder | None:  # noqa: ARG002
        return None

    def evaluate(self, passes: Mapping[str, Pass], like: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:  # noqa: ARG002
        return {name: evaluate() for name, evaluate in passes.items()}

    @contextmanager
    def computing(self) -> Iterator[None]:
        yield

    @contextmanager
    def handing_out(self) -> Iterator[None]:
        yield

    def agree(self, interrupt: bool, changed: Mapping[str, Tensor]) -> tuple[bool, Mapping[str, Tensor]]:
        return interrupt, changed


@dataclass(frozen=True)
class _Failure:
    words: str


@dataclass(frozen=True)
class _Coding:
    """Order: encode or decode a tensor of this shape and type, which comes through the devices' group."""

    direction: Direction
    shape: tuple[int, ...]
    dtype: torch.dtype


class Processes:
    """The processes of a group, as one pipeline sees them. Every process of the group makes one, at the same time.

    transformer, vae: the models, with the same weights on each process. Without `vae` the first process encodes and
        decodes alone.
    group: of `torch.distributed`; None takes all processes. Its backend must be able to send the tensors of the
        transformer's device.
    """

    def __init__(
        self,
        transformer: SamaTransformer3DModel,
        group: dist.ProcessGroup | None = None,
        vae: AutoencoderKLWan | None = None,
    ) -> None:
        self.transformer, self.vae = transformer, vae
        found = group or dist.group.WORLD
        if found is None:
            raise ValueError("There is no process group: call torch.distributed.init_process_group first.")
        self.group = found
        self.rank, self.size = self.group.rank(), self.group.size()
        self._device = torch.device("cpu")
        self.broken = False
        """Whether a step has failed here: other processes may wait inside it, so that nothing more can be agreed on."""
        self.current = Split(1, 1)
        self._ranks = dist.get_process_group_ranks(self.group)
        self._orders = dist.new_group(self._ranks, _PATIENCE, "gloo", use_local_synchronization=True)
        self._parts: dict[int, dist.ProcessGroup] = {}
        self._sharing = SequenceParallel({}, [])
        self._leading = self._others_wait = False
        if len(set(self.gathered(None if vae is None else vae.dtype))) > 1:
            self.vae = None  # one that was short of memory took a smaller type

    @property
    def heads(self) -> int:
        return int(self.transformer.config["num_attention_heads"])

    def gathered(self, value: T) -> list[T]:
        """The value that each process gives, by rank. All call it at the same time."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._orders)
        return found

    # --- A run -------------------------------------------------------------------------------------------------------

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Around everything that the first process does while the others follow it: they take part in encoding and
        decoding then, also between runs. At the end they are dismissed."""
        self._leading = self._others_wait = self.rank == 0
        try:
            yield
        finally:
            self._leading = self._others_wait = False
            self.dismiss()

    @contextmanager
    def run(self, prepare: Callable[[], T], device: torch.device) -> Iterator[T]:
        """A run, as `prepare` made it on the first process, sent to every process; the others do not call it.

        device: of this process; tensors that are on a GPU there are on this one here.
        Raises what `prepare` raises on the first process; on the others RunLeft when it failed, Dismissed after
        `dismiss`.
        """
        self._device = device
        try:
            self._others_wait = self.rank == 0
            made = self._shared(prepare)
            self._others_wait = False
            yield made
        finally:
            self._others_wait = self._leading

    def dismiss(self) -> None:
        """Let the other processes, which wait for a run, go. The first process calls it."""
        if self.rank == 0 and not self.broken:
            self._send(None)

    def coder(self, clip: Sequence[int]) -> Coder | None:
        """Encodes and decodes a clip (B, T, H, W) on all processes; None where the others do not wait for the first
        one, and where it does not pay or the autoencoder cannot be cut.

        The first process calls it.
        """
        if self.vae is None or self.broken or not self._others_wait:
            return None
        return self._code if vae_parallel.can_spread(self.vae, clip, self.size) else None

    def _code(self, direction: Direction, given: Tensor) -> Tensor:
        self._send(_Coding(direction, tuple(given.shape), given.dtype))
        return self._take_part(direction, given.contiguous())

    def _take_part(self, direction: Direction, given: Tensor) -> Tensor:
        """Encode or decode this process's part of what the first process gives."""
        assert self.vae is not None  # the first process asks for it, and all have one or none
        with self.computing():
            dist.broadcast(given.view(torch.uint8), group_src=0, group=self.group)
            work = vae_parallel.encode if direction == "encode" else vae_parallel.decode
            return work(self.vae, given, self.group)

    def evaluate(self, passes: Mapping[str, Pass], like: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
        """The tensors of every pass of a step, by its name. Each process calls those that are its own.

        like: tensors of the shapes, type and device of a pass's.
        """
        self._arrange(split(self.size, self.heads, len(passes)))
        mine = self.rank // self.current.sequence  # beyond the branches for a process that is not needed
        order = list(enumerate(passes.items()))
        found = {name: evaluate() for index, (name, evaluate) in order if index % self.current.branches == mine}
        for index, (name, _) in order:
            speaker = (index % self.current.branches) * self.current.sequence
            flat = torch.cat([part.flatten() for part in found.get(name, like)]).contiguous()
            dist.broadcast(flat, group_src=speaker, group=self.group)
            parts = flat.split([part.numel() for part in like])
            found[name] = [part.view_as(shape) for part, shape in zip(parts, like, strict=True)]
        return {name: found[name] for name in passes}

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around what processes compute in step with each other: a failure in there breaks the group."""
        try:
            yield
        except (RunLeft, Dismissed, GeneratorExit):
            raise
        except BaseException:
            self.broken = True
            raise

    @contextmanager
    def handing_out(self) -> Iterator[None]:
        """Around the `yield` of a step: who consumes the steps may close them there, and the others are told."""
        try:
            yield
        except BaseException:
            self._highest(LEAVE)
            raise

    def agree(self, interrupt: bool, changed: Mapping[str, Tensor]) -> tuple[bool, Mapping[str, Tensor]]:
        """After a step: whether any process interrupts the run, and the tensors, by name, that the first process's
        callback has put in place of the run's. Raises RunLeft where another process has left the run."""
        level = self._highest(INTERRUPT if interrupt else GO_ON)
        if level == LEAVE:
            raise RunLeft("another process has left the run")
        any_changed = self._highest(len(changed) if self.rank == 0 else 0)
        changed = self._shared(lambda: dict(changed)) if any_changed else {}
        return level == INTERRUPT, changed

    def remove(self) -> None:
        """Leave the transformer as it was. The groups stay until the process ends."""
        self._sharing.remove()
        self.current = Split(1, 1)

    # --- How ---------------------------------------------------------------------------------------------------------

    def _shared(self, make: Callable[[], T]) -> T:
        """The result of `make` on the first process, on all of them."""
        if self.rank:
            while isinstance(received := self._received(), _Coding):
                release(self.transformer)
                given = torch.empty(received.shape, dtype=received.dtype, device=self._device)
                self._take_part(received.direction, given)
            if isinstance(received, _Failure):
                raise RunLeft(received.words)
            if received is None:
                raise Dismissed
            return received
        try:
            made = make()
        except BaseException as error:
            if not self.broken:
                self._send(_Failure(type(error).__name__))
            raise
        self._send(made)
        return made

    def _arrange(self, wanted: Split) -> None:
        """Share sequences among as many neighbours as `wanted` says."""
        if wanted.sequence != self.current.sequence:
            self._sharing.remove()
            if wanted.sequence > 1:
                self._sharing = self._sharing_of(wanted)
        self.current = wanted

    def _sharing_of(self, wanted: Split) -> SequenceParallel:
        degree = wanted.sequence
        if degree not in self._parts:
            # Neighbours [0, degree), [degree, 2 degree), ...; those left over at the end are a group that idles.
            first = self.rank // degree * degree
            ranks = self._ranks[first : first + degree]
            self._parts[degree] = dist.new_group(ranks, use_local_synchronization=True)
        part = self._parts[degree]
        return sequence_parallel(self.transformer, part) if part.size() == degree else SequenceParallel({}, [])

    def _highest(self, number: int) -> int:
        if self.broken:
            return number
        word = torch.tensor([number])
        dist.all_reduce(word, dist.ReduceOp.MAX, group=self._orders)
        return int(word)

    def _send(self, value: Any) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        data = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        dist.broadcast(torch.tensor([len(data)]), group_src=0, group=self._orders)
        dist.broadcast(data, group_src=0, group=self._orders)

    def _received(self) -> Any:
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, group_src=0, group=self._orders)
        data = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, group_src=0, group=self._orders)

        def placed(storage: Any, location: str) -> Any:
            return storage if location == "cpu" else default_restore_location(storage, str(self._device))

        # It comes from the first process of this program, and holds records beside tensors.
        return torch.load(io.BytesIO(data.numpy().tobytes()), map_location=placed, weights_only=False)
