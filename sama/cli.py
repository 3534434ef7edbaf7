"""`python -m sama edit | batch | info | doctor | convert | bundle | space`.

Exit status: 0 done, 2 bad input, 1 a failure of ours, 130 cancelled. Heavy libraries are imported where they are
needed: help and refusals are quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from sama.device.memory import MEMORY_MODES
from sama.errors import CheckpointError, EditError, EditFailedError
from sama.presets import PRESETS, QUALITIES

if TYPE_CHECKING:
    from sama.edit import EditEvent, EditRequest, EditResult
    from sama.edit.estimate import Estimate
    from sama.video import VideoInfo

OK, FAILED, BAD_INPUT, CANCELLED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = _parser().parse_args(argv)
    _quiet(arguments)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        _say("Cancelled; nothing was saved.")
        return CANCELLED
    except Exception as error:
        return _failure(error, arguments.debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


# --- Commands --------------------------------------------------------------------------------------------------------


def _edit(arguments: argparse.Namespace) -> int:
    from sama.edit.request import EditRequest, free_output
    from sama.edit.settings_file import load_settings
    from sama.video.codecs import usual_suffix

    values = load_settings(arguments.settings) if arguments.settings else {}
    values.pop("output", None)  # an earlier result is not replaced by accident
    given = _given(arguments)
    if "quality" in given:  # it replaces how the earlier result was sampled
        for name in ("steps", "guidance", "scheduler", "guidance_interval", "few_steps"):
            values.pop(name, None)
    values |= given
    for name, what in (("video", "a video"), ("instruction", "an instruction")):
        if values.get(name) is None:
            raise _UsageError(f'Give {what}: python -m sama edit in.mp4 "Make it snowy" -o out.mp4')
    if "output" not in values:
        values["output"] = free_output(values["video"], usual_suffix(values.get("codec")))
    progress = _Progress(quiet=arguments.quiet)
    with (
        _unlogged("sama.pipeline"),
        _unlogged("sama.model.lora"),
        closing(_events(EditRequest(**values), arguments.gpus, arguments.debug)) as events,
    ):
        event = None
        for event in events:
            progress.show(event)
    progress.finish()
    if event is None:  # a launcher's process that is not the first one
        return OK
    if event.result is not None and event.result.notices:
        _say(f"Note: {' '.join(event.result.notices)}")
    print(values["output"])
    return OK


def _batch(arguments: argparse.Namespace) -> int:
    from sama.edit.batch import read_jobs, run_batch

    if arguments.gpus != 1:
        raise _UsageError("A batch runs on one GPU: leave --gpus out.")
    given = _given(arguments)
    instruction = given.pop("instruction", None)
    rows = read_jobs(arguments.jobs, given, instruction, arguments.out)
    progress, edited, skipped, statuses = _Progress(quiet=arguments.quiet), 0, 0, []
    with (
        _unlogged("sama.pipeline"),
        _unlogged("sama.model.lora"),
        closing(run_batch(rows, arguments.overwrite)) as events,
    ):
        for told in events:
            skipped += told.skipped
            if told.error is not None:
                statuses.append(_failure(told.error, arguments.debug, f"{told.row.place}: "))
            if told.event is None:
                continue
            progress.show(told.event)
            if told.event.result is not None:
                progress.finish()
                progress = _Progress(quiet=arguments.quiet)
                edited += 1
                print(told.event.result.output, flush=True)
    _say(f"{edited} edited, {skipped} there already, {len(statuses)} failed")
    return min(statuses, default=OK)  # a failure of ours comes before bad input


def _events(request: EditRequest, gpus: int, debug: bool) -> Generator[EditEvent, None, None]:
    """An edit in this process, on workers of its own, or as one of a launcher's processes."""
    from sama.edit import edit_video
    from sama.workers.edit import edit_as_launched, edit_on_workers, launched

    if launched():
        if gpus != 1:
            raise _UsageError("A launcher has started this process already: leave --gpus out.")
        return edit_as_launched(request)
    return edit_video(request) if gpus == 1 else edit_on_workers(request, gpus, quiet=not debug)


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    """Silence a logger's warnings inside the block: the result repeats them as notices."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _info(arguments: argparse.Namespace) -> int:
    from sama.edit.request import EditRequest, check_values, check_video, check_weights

    request = EditRequest(instruction="", output="", **_given(arguments))
    check_values(request)
    info = check_video(request.video)
    print(_facts(info))
    if info.notices:
        print(f"Note: {' '.join(info.notices)}")
    check_weights(request.preset, request.model)
    from sama.edit.estimate import estimate
    from sama.workers.estimate import on_several

    told = on_several(estimate(request, info), request, arguments.gpus)
    print(_told(told))
    for line in _memory(request, info, told):
        print(line)
    return OK


def _memory(request: EditRequest, info: VideoInfo, told: Estimate) -> list[str]:
    """Where the weights will wait and why, and on a GPU what every mode would take."""
    if not told.device.startswith("cuda"):
        return ["Memory mode: resident (all weights stay in main memory)"]
    from sama.device.placement import can_compile, free_bytes, host_memory
    from sama.edit.estimate import architecture_of, known_speed, measure_speed
    from sama.edit.outlook import outlook

    device, tokens = told.device, told.tokens.total
    speed = known_speed(device) or measure_speed(device, tokens, architecture_of(request.preset, request.model))
    free = free_bytes(device)
    return outlook(request, info, speed, free, host_memory(), can_compile=can_compile()).sentences()


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that were named on the command line."""
    from sama.edit.request import EditRequest

    return {name: value for name, value in vars(arguments).items() if name in EditRequest.__dataclass_fields__}


def _doctor(arguments: argparse.Namespace) -> int:
    from sama.doctor import diagnose

    healthy = True
    for finding in diagnose(arguments.preset, arguments.folder):
        healthy &= finding.ok
        print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.name}: {finding.detail}")
        if finding.advice:
            print(f"         {finding.advice}")
    print("Ready." if healthy else "Not ready: see the problems above.")
    return OK if healthy else FAILED


def _convert(arguments: argparse.Namespace) -> int:
    target = Path(arguments.target)
    if target.exists():
        raise _UsageError(f"{target} exists already; give a new name.")
    if not target.absolute().parent.is_dir():
        raise _UsageError(f"The folder {str(target.parent)!r} does not exist; create it first.")
    to_official = arguments.to == "official"
    if to_official != (target.suffix == ".safetensors"):
        kind = "a .safetensors file" if to_official else "a folder, so its name has no suffix .safetensors"
        raise _UsageError(f"The target of --to {arguments.to} is {kind}.")
    if to_official and arguments.base:
        raise _UsageError("--base makes a folder complete: leave it out with --to official.")
    if not re.fullmatch(r"[1-9]\d*[KMG]B", arguments.shard_size):
        raise _UsageError(f"The shard size cannot be {arguments.shard_size!r}; give one such as 500MB or 2GB.")
    if not Path(arguments.source).exists():
        raise _UsageError(f"There is no checkpoint at {arguments.source}; check the path.")
    import torch

    dtype = getattr(torch, arguments.dtype)
    if to_official:
        from sama.checkpoints import load_transformer, save_official

        save_official(load_transformer(arguments.source, arguments.preset, dtype), target, dtype)
    else:
        from sama.conversion import to_folder

        to_folder(arguments.source, target, arguments.preset, dtype, arguments.base, arguments.shard_size)
    print(target)
    return OK


def _space(arguments: argparse.Namespace) -> int:
    from sama.space import plan_space, upload_space

    space = plan_space(arguments.repo, arguments.hardware, arguments.preset)
    total = sum(file.size for file in space.files)
    if arguments.dry_run:
        for file in space.files:
            print(f"{file.size:>12,}  {file.path}")
        print(f"{total:>12,}  bytes in {len(space.files)} files for {space.repo} on {space.hardware}\n")
        print(f"---\n{space.front_matter}---")
        return OK
    from huggingface_hub import HfApi

    _say(f"Uploading {len(space.files)} files, {total / 1e6:.0f} MB, to {space.repo}")
    print(upload_space(space, HfApi(), arguments.private))
    return OK


def _bundle(arguments: argparse.Namespace) -> int:
    from sama.bundle import write_code

    print(write_code(arguments.folder))
    return OK


# --- What is said ----------------------------------------------------------------------------------------------------


class _Progress:
    """Events on stderr: one line that rewrites itself on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._last = ""
        self._began: float | None = None

    def show(self, event: EditEvent) -> None:
        text = event.message
        if event.warning:
            _say(event.warning)
            self._last = ""
            return
        if event.phase == "painting" and event.step:
            text += f", window {event.window} of {event.windows}" if event.windows > 1 else ""
            text += self._left(event)
        elif not self._terminal and event.message.startswith("Saved frame"):
            return
        if self._quiet or text == self._last:
            return
        if event.result is not None:
            text += f" ({_outcome(event.result)})"
        padding = " " * max(0, len(self._last) - len(text))
        print(f"\r{text}{padding}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()
        self._last = text

    def finish(self) -> None:
        if self._terminal and self._last:
            print(file=sys.stderr)

    def _left(self, event: EditEvent) -> str:
        """The time left, estimated from the steps so far without the first, which warms up."""
        done = (event.window - 1) * event.steps + event.step
        now = time.monotonic()
        if self._began is None:
            self._began = now
            return ""
        left = (now - self._began) / (done - 1) * (event.windows * event.steps - done)
        return f", about {left:.0f} s left" if left >= 1 else ""


def _outcome(result: EditResult) -> str:
    from sama.edit.composing.change import told_change

    told = told_change(result.changed)
    return f"{result.frames} frames in {result.seconds:.1f} s" + (f", {told}" if told else "")


def _facts(info: VideoInfo) -> str:
    sound = "with sound" if info.has_audio else "no sound"
    rate = f"{float(info.fps):.5g} frames per second{' (variable)' if info.variable_frame_rate else ''}"
    return (
        f"{Path(info.path).name}: {info.width} x {info.height}, {info.frames} frames, {rate}, {info.duration:.2f} s, "
        f"{info.codec} {info.bit_depth} bit, {sound}"
    )


def _told(told: Estimate) -> str:
    minutes = f"{told.seconds:.0f} s" if told.seconds < 120 else f"{told.seconds / 60:.0f} min"
    return (
        f"An edit: {told.windows} window{'s' if told.windows > 1 else ''} of {told.tokens.total:,} tokens, "
        f"{told.steps} steps, {told.forwards:,} forwards of {told.forward_flops / 1e12:.3g} TFLOP, "
        f"about {told.memory_bytes / 1e9:.1f} GB of memory\n"
        f"About {minutes} on {told.device} ({told.basis})"
    )


def _failure(error: Exception, debug: bool, where: str = "") -> int:
    """Tell why something failed, and the exit status that follows. where: before the sentence."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, (_UsageError, EditError, CheckpointError)):
        _say(where + str(error))
        return BAD_INPUT
    first_line = next(iter(str(error).strip().splitlines()), "")
    ours = "" if isinstance(error, EditFailedError) else f"This failed, which is our fault: {type(error).__name__}: "
    sentence = where + ours + first_line
    _say(sentence if debug else f"{sentence} (--debug shows the details)")
    return FAILED


def _say(sentence: str) -> None:
    line_start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{line_start}{sentence}", file=sys.stderr)


def _quiet(arguments: argparse.Namespace) -> None:
    """Silence libraries and limit OpenMP to the usable cores; call it before they are imported."""
    from sama.doctor import usable_cores

    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    if arguments.debug:
        return
    import warnings

    warnings.simplefilter("ignore")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if getattr(arguments, "preset", "tiny") == "tiny":  # others may download for minutes, which should be seen
        os.environ.setdefault("TQDM_DISABLE", "1")


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise SystemExit(TERMINATED)  # unwinds the edit, which removes its unfinished file


# --- Arguments -------------------------------------------------------------------------------------------------------


class _UsageError(ValueError):
    """Arguments that do not fit together."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{message[:1].upper()}{message[1:]}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    from sama import __version__

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' messages")
    command = "sama" if Path(sys.argv[0]).stem == "sama" else "python -m sama"
    parser = _Parser(prog=command, description="Change a video by telling it what to change.")
    parser.add_argument("--version", action="version", version=f"sama {__version__}")
    commands = parser.add_subparsers(required=True, metavar="edit | batch | info | doctor | convert | bundle | space")
    for add in (_add_edit, _add_batch, _add_info, _add_doctor, _add_convert, _add_bundle, _add_space):
        add(commands, common)
    return parser


def _add_edit(commands: Any, common: argparse.ArgumentParser) -> None:
    edit = commands.add_parser(
        "edit", parents=[common], help="edit a video", argument_default=argparse.SUPPRESS,
        description="Edit a video; size, length, frame rate and sound stay. The settings go beside the result.",
    )  # fmt: skip
    edit.add_argument("video", nargs="?", help="the source")
    edit.add_argument("instruction", nargs="?", help='what should change, such as "Make it snowy"')
    edit.add_argument("-o", "--output", help="the result; <name>-edited.mp4 beside the source if left out")
    edit.add_argument("--settings", default=None, help="the .json of an earlier result, for all that is not given")
    _add_result_arguments(edit)
    edit.add_argument(
        "--mask", metavar="FILE", help="a picture or a clip, white where the edit may show; the source stays elsewhere"
    )
    edit.set_defaults(run=_edit)


def _add_batch(commands: Any, common: argparse.ArgumentParser) -> None:
    batch = commands.add_parser(
        "batch", parents=[common], help="many edits with one loaded model", argument_default=argparse.SUPPRESS,
        description="Edit the clips of a folder or of a table. Results that are there already are left alone.",
    )  # fmt: skip
    batch.add_argument("jobs", help="a folder of clips, or a .csv with the columns clip, instruction and more")
    batch.add_argument("instruction", nargs="?", help="for a folder, and for rows that name none")
    batch.add_argument("--out", metavar="FOLDER", default=None, help="where results go; beside their clips if left out")
    batch.add_argument("--overwrite", action="store_true", default=False, help="do again what is there already")
    _add_result_arguments(batch)
    batch.set_defaults(run=_batch)


def _add_result_arguments(parser: argparse.ArgumentParser) -> None:
    _add_run_arguments(parser)
    parser.add_argument("--seed", type=int, help="same seed, same file (0)")
    parser.add_argument("--negative", dest="negative_prompt", metavar="TEXT", help="what to avoid")
    parser.add_argument(
        "--lora", action="append", metavar="FILE[@SCALE]", help="LoRA weights; may be given several times"
    )
    parser.add_argument("--codec", help="prores for editing programs (.mov, .mkv), ffv1 for archives (.mkv)")
    parser.add_argument("--quiet", action="store_true", default=False, help="no progress")


def _add_info(commands: Any, common: argparse.ArgumentParser) -> None:
    info = commands.add_parser(
        "info", parents=[common], help="facts about a video, and what an edit will take",
        argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    info.add_argument("video")
    _add_run_arguments(info)
    info.set_defaults(run=_info)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", help=f"{', '.join(PRESETS)} (tiny)")
    parser.add_argument("--model", metavar="FOLDER", help="a saved pipeline in place of the preset's weights")
    parser.add_argument("--quality", help=f"{', '.join(QUALITIES)}: sets what of the next four is not given")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's default if left out")
    parser.add_argument("--guidance", type=float, help="how strongly the instruction steers")
    parser.add_argument("--scheduler", help="euler or unipc")
    parser.add_argument(
        "--guidance-interval", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="noise levels from 0 to 1 between which guidance acts; steps elsewhere are twice as quick",
    )  # fmt: skip
    parser.add_argument(
        "--cache", type=float, metavar="THRESHOLD", help="leave out what changes less than this between steps (0.1)"
    )
    parser.add_argument(
        "--few-steps", metavar="FILE",
        help="a LoRA for four steps without guidance: a file, owner/name/file.safetensors on the Hub, own (the "
        "model's, which --quality fast uses) or off",
    )  # fmt: skip
    parser.add_argument("--source-guidance", type=float, help="how strongly the source steers, on top")
    parser.add_argument("--start", type=int, help="first frame to edit (0)")
    parser.add_argument("--frames", type=int, help="how many frames to edit, at most; all if left out")
    parser.add_argument(
        "--keep-source", help="the source's own pixels where nothing changes: auto (default), on or off"
    )
    parser.add_argument("--detail", help="the source's detail in the edit: auto (default), on or off")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps; the best there is if left out")
    parser.add_argument("--memory", help=f"where weights wait on a GPU: {', '.join(MEMORY_MODES)}")
    parser.add_argument("--compile", help="compile the blocks on a GPU: auto (default), on or off")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="share the edit among N GPUs, or processes of a CPU (1)"
    )


def _add_doctor(commands: Any, common: argparse.ArgumentParser) -> None:
    doctor = commands.add_parser("doctor", parents=[common], help="is this machine ready?")
    doctor.add_argument("--preset", choices=tuple(PRESETS), default="tiny")
    doctor.add_argument("--folder", default=".", help="where results will go")
    doctor.set_defaults(run=_doctor)


def _add_convert(commands: Any, common: argparse.ArgumentParser) -> None:
    convert = commands.add_parser(
        "convert", parents=[common], help="a transformer's weights between official and our key names"
    )
    convert.add_argument("source", help="a checkpoint: file, shards or folder, of either kind")
    convert.add_argument("target", help="a new .safetensors file (official) or a new folder (diffusers)")
    convert.add_argument("--to", choices=("official", "diffusers"), required=True)
    convert.add_argument(
        "--preset", choices=("14b", "1.3b"), help="the model, where no config.json lies beside the source"
    )
    convert.add_argument(
        "--base", metavar="FOLDER", help="Wan2.1 in diffusers' layout, a folder or a Hub repository: its VAE and text "
        "encoder make the new folder a complete pipeline",
    )  # fmt: skip
    convert.add_argument(
        "--shard-size", default="2GB", help="the largest file of a new folder, and about the memory needed (2GB)"
    )
    convert.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    convert.set_defaults(run=_convert)


def _add_space(commands: Any, common: argparse.ArgumentParser) -> None:
    space = commands.add_parser(
        "space", parents=[common], help="put the app on a Hugging Face Space",
        description="Create a Hugging Face Space with this app, or replace what it holds, without git. Log in first: "
        "hf auth login.",
    )  # fmt: skip
    space.add_argument("--repo", required=True, metavar="USER/NAME", help="the Space")
    space.add_argument("--hardware", choices=("zero", "cpu", "gpu"), default="zero", help="cpu and gpu are paid (zero)")
    space.add_argument("--preset", choices=("tiny", "14b"), default="tiny", help="the model there (tiny)")
    space.add_argument("--private", action="store_true", help="only for you")
    space.add_argument("--dry-run", action="store_true", help="list the files and settings; upload nothing")
    space.set_defaults(run=_space)


def _add_bundle(commands: Any, common: argparse.ArgumentParser) -> None:
    bundle = commands.add_parser(
        "bundle", parents=[common], help="put the code into a saved pipeline, for diffusers without this package"
    )
    bundle.add_argument("folder", help="a saved pipeline; its pipeline.py is written")
    bundle.set_defaults(run=_bundle)
