"""The limits of the app: both the checks and the help text use these values."""

from __future__ import annotations

import re

from sama.video import UPLOAD_LIMITS
from sama.video.uploads import MAX_FILE_SECONDS, MAX_UPLOAD_FPS
from ui.errors import PromptError

MAX_FILE_SIZE = "50mb"
PROMPT_LENGTH = (3, 600)
MAX_SEED = 2**31 - 1
STEPS = (1, 50)
GUIDANCE = (1.0, 10.0)
PRETEXT_FRAMES = 17
MAX_UPLOAD = UPLOAD_LIMITS.max_bytes or 0
"""Bytes of an uploaded file."""
CLIP_FILES = (
    ".mp4", ".m4v", ".mov", ".qt", ".webm", ".mkv", ".avi", ".gif", ".webp", ".apng", ".png",
    ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv", ".flv", ".wmv",
)  # fmt: skip
"""Suffixes of files that the page takes for clips; a browser's own list of videos lacks some of them."""
CLIP_TYPES = ("image/gif", "image/webp", "image/apng", "image/png")
"""Media types that it takes, too, beside `video/*`."""
CACHE_SECONDS = 3600
"""How long a clip stays on the server after its last use."""
LEAVE_SECONDS = 180
"""How long a clip stays after its page was closed: a reload goes on with it."""
SWEEP_SECONDS = 60
KEEP_SECONDS = 60
"""How often an open page says that its clips are in use."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def checked_instruction(text: str | None) -> str:
    """The instruction without control characters and with single spaces.

    Raises PromptError when it is too short or too long. A text box checks its length in the browser only, so this check
    on the server is needed.

    """
    prompt = " ".join(_CONTROL.sub(" ", text or "").split())
    low, high = PROMPT_LENGTH
    if len(prompt) < low:
        raise PromptError("Say what should change, for example “Make it snowy”.")
    if len(prompt) > high:
        raise PromptError(f"The instruction has {len(prompt)} characters; shorten it to {high}.")
    return prompt


def limits_table(max_frames: int) -> str:
    """The limits as a Markdown table."""
    rows = [
        ("File", f"up to {(UPLOAD_LIMITS.max_bytes or 0) // 1_000_000} MB; MP4, MOV, WebM, MKV, AVI or GIF"),
        (
            "Length",
            f"{UPLOAD_LIMITS.max_seconds:.0f} s, of a file of up to {MAX_FILE_SECONDS / 60:.0f} minutes; "
            f"up to {max_frames} frames are edited at a time",
        ),
        ("Size", f"sides up to {UPLOAD_LIMITS.max_side} px; above {int(MAX_UPLOAD_FPS)} frames a second it is thinned"),
        ("Instruction", f"{PROMPT_LENGTH[0]} to {PROMPT_LENGTH[1]} characters"),
        ("Seed", f"0 to {MAX_SEED}; the same seed gives the same video"),
        ("Steps, guidance", f"{STEPS[0]} to {STEPS[1]}, {GUIDANCE[0]:g} to {GUIDANCE[1]:g}"),
        ("Kept on the server", f"until {LEAVE_SECONDS // 60} minutes after you leave; never used for training"),
    ]
    return "\n".join(["| What | Limit |", "|---|---|", *(f"| {name} | {limit} |" for name, limit in rows)])
