"""Reads the rows of published data sets, with one small function for each set.

Paths stay as the row gives them, relative to `root` (see each adapter). Where the form of a set is known from is said
with each; "not verified" marks what is assumed because no file of the set itself could be looked at. A set in another
form needs no code: rename its columns to `source_video, target_video, prompt` and use `pairs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.data.files.manifest import Media, Record, Row, RowError, column, media_column, text_column
from training.errors import ConfigError

SOURCE = (
    "source_video", "original_video", "src_video", "source_image", "original_image", "input_image", "src_image",
    "source_path", "source", "src", "input",
)  # fmt: skip
TARGET = (
    "target_video", "video", "tgt_video", "tar_video", "edited_video", "target_image", "edited_image", "output_image",
    "tgt_image", "edited_path", "target_path", "target", "tgt", "edited", "output",
)  # fmt: skip
PROMPT = ("prompt", "instruction", "edit_instruction", "edit_prompt", "editing_instruction", "txt")
CLIP = ("video", "target_video", "video_path", "file_name", "path", "mp4", "webm", "mov", "mkv")
CAPTION = ("caption", "prompt", "text", "txt")

OPENVE_OFFSET = 4
"""Frames dropped at the beginning of both clips of OpenVE-3M (paper, section on data)."""

OUTSIDE = "outside the subset"
"""The reason of rows that belong to a part of a set that is not trained on."""


@dataclass(frozen=True)
class Adapter:
    """How the rows of one kind of manifest are read.

    read: columns to a record, with paths as the row gives them; raises RowError for a row that it cannot or must not
    use.
    edits: whether rows are pairs (an instruction and two clips), or clips for the pretext tasks.
    """

    read: Callable[[Row], Record]
    edits: bool = True


def pairs(row: Row) -> Record:
    """`source_video, target_video, prompt` or their aliases (`SOURCE`, `TARGET`, `PROMPT`); `offset` if there is one.

    The aliases cover `original_video/video`, `src_video/tgt_video` and `original_video/edited_video`, and shards with
    members `source.*`, `target.*` and `prompt.txt`.
    """
    offset = row.get("offset") or 0
    try:
        offset = int(offset)
    except (TypeError, ValueError):
        raise RowError("malformed row", f"the offset must be a number of frames, not {offset!r}") from None
    if offset < 0:
        raise RowError("malformed row", f"the offset must not be negative: {offset}")
    source, target = media_column(row, SOURCE, "source"), media_column(row, TARGET, "target")
    return Record(source, target, text_column(row, PROMPT, "prompt"), offset)


def clips(row: Row) -> Record:
    """A clip and its caption, for the pretext tasks; a caption may be empty, because a restoration needs no
    instruction."""
    try:
        caption = text_column(row, CAPTION, "caption")
    except RowError as error:
        if error.reason not in ("missing column", "empty caption"):
            raise
        caption = ""
    return Record(None, media_column(row, CLIP, "clip"), caption)


def nhr_edit(row: Row) -> Record:
    """NHR-Edit: `train/metadata.jsonl`, one triplet a line; root: the data set's folder.

    The layout is the data set card's; the names of the columns (`source_file_name`, `edited_file_name`,
    `edit_instruction`) are those that a public loader of the same file reads; the file itself was not looked at.
    """
    source = media_column(row, ("source_file_name",), "source")
    target = media_column(row, ("edited_file_name",), "target")
    return Record(source, target, text_column(row, ("edit_instruction",), "prompt"))


def gpt_image_edit(row: Row) -> Record:
    """GPT-Image-Edit-1.5M: the training json lists (`hqedit_gpt_edit.json` and so on); root: as in its `data.txt`, for
    instance `gpt-edit/hqedit/edit`.

    Known from the official training code: a list of rows with `image`, paths relative to the root, the last one the
    edited picture. The instruction as the first turn of `conversations` (with `<image>` marks) is the convention of the
    loader's family; not verified on the files. Rows with more than one source picture are left out.
    """
    images = column(row, ("image",), "images")
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise RowError("malformed row", "`image` must be a list of paths")
    if len(images) != 2:
        raise RowError(OUTSIDE, f"{len(images)} pictures: only one source and one result make a pair")
    turns = column(row, ("conversations",), "conversation")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        raise RowError("malformed row", "`conversations` must be a list of turns")
    text = text_column(turns[0], ("value",), "prompt").replace("<image>", " ")
    return Record(Media(images[0]), Media(images[1]), text)


def x2edit(row: Row) -> Record:
    """X2Edit: WebDataset shards with `<key>.1.0.jpg` (or `.1.jpg`), `<key>.2.jpg` and `<key>.json`.

    Known from the official training code, which reads `instruction`, and `caption_en` (a text or a list of wordings,
    the first is taken) where there is none. The subject-driven, canny and depth parts have other members or no
    instruction, and rows of them are left out or named as malformed; not verified on shards.
    """
    if row.get("label") in ("Subjects200K", "Style Transfer"):
        raise RowError(OUTSIDE, f"label {row['label']}: no picture is edited")
    source = media_column(row, ("1.0", "1"), "source")
    text = row.get("instruction") or column(row, ("caption_en",), "prompt")
    if isinstance(text, list) and text:
        text = text[0]
    if not isinstance(text, str):
        raise RowError("malformed row", "the instruction must be a text")
    return Record(source, media_column(row, ("2",), "target"), text)


def pico_banana(row: Row) -> Record:
    """Pico-Banana-400K, single-turn: `sft.jsonl` after the official `map_openimage_url_to_local.py`; root: the folder
    of the edited pictures.

    Known from the official repository: the script adds `local_input_image` (null where the Open Images picture was not
    found), and rows carry `text`, `summarized_text`, `output_image` and `edit_type`. `text`, the long instruction, is
    used. `local_input_image` is relative to where the script ran, so give the script an absolute `image_root`.
    """
    if row.get("local_input_image") is None:
        raise RowError("missing source", "local_input_image is empty: run map_openimage_url_to_local.py first")
    source = media_column(row, ("local_input_image",), "source")
    return Record(source, media_column(row, ("output_image",), "target"), text_column(row, ("text",), "prompt"))


def koala(row: Row) -> Record:
    """Koala-36M: its csv files (`videoID, url, timestamp, caption, ...`); root: a folder with `<videoID>.mp4`.

    The columns are known from several public programs that read the files. The set gives addresses and times, not
    clips: that each clip was downloaded, cut to its `timestamp` and named after its `videoID` is our assumption.
    """
    name = text_column(row, ("videoID",), "clip")
    return Record(None, Media(f"{name}.mp4"), text_column(row, ("caption",), "caption"))


def motion_bench(row: Row) -> Record:
    """MotionBench: `MotionBenchCaption-train/train.jsonl`; root: the folder `videos` beside it.

    The file is the data set's; the columns `video_path` and `motion_caption` are those that a public loader reads. The
    paper's 53,879 clips are more than this file's: where the others come from is not published.
    """
    return Record(None, media_column(row, ("video_path",), "clip"), text_column(row, ("motion_caption",), "caption"))


def ditto_style(row: Row) -> Record:
    """Ditto-1M, Style subset only: `training_metadata/*.json` or `csvs_for_DiffSynth/*.csv`; root: the folder `videos`.

    Known from the data set card (`source_path, instruction, edited_path`) and the official training command, which
    reads `vace_video` as the source and `video` as the result. The subset is told by the folder `global_style*` of the
    edited clip, as the card lays the videos out; that every path begins with it is not verified.
    """
    target = text_column(row, ("edited_path", "video"), "target")
    if not any(part.startswith("global_style") for part in target.split("/")):
        raise RowError(OUTSIDE, f"{target} is not in a folder global_style*")
    source = media_column(row, ("source_path", "vace_video"), "source")
    return Record(source, Media(target), text_column(row, ("instruction", "prompt"), "prompt"))


def openve(row: Row) -> Record:
    """OpenVE-3M: one csv for each category (`local_change.csv`, `background_change.csv`, `global_style.csv`, the
    subtitles'); root: the folder `videos`. The first four frames of both clips are dropped.

    `original_video`, `video` and `prompt` are the columns of metadata derived from this set, as a public trainer reads
    them; `edited_video` is taken as well. The set's own csv files were not looked at: not verified. Categories are
    chosen by listing their files as sets; where a column `edited_type` names one, creative and multi-shot edits, adding
    and removing, which the paper does not train on, are left out.
    """
    kind = str(row.get("edited_type") or row.get("edit_type") or "").lower().replace(" ", "_")
    if kind and not any(word in kind for word in ("change", "background", "style", "subtitle")):
        raise RowError(OUTSIDE, f"edited_type {kind}: local change, background, style and subtitles are used")
    source = media_column(row, ("original_video", "source_video", "src_video"), "source")
    target = media_column(row, ("edited_video", "video", "target_video", "tgt_video"), "target")
    return Record(source, target, text_column(row, ("prompt",), "prompt"), OPENVE_OFFSET)


def reco(row: Row) -> Record:
    """ReCo-Data: `<task>/<task>_data_configs.json` for add, remove, replace and style; root: the folder `ReCo-Data`.

    The layout is the official repository's; the columns `src_video`, `tar_video` and `instruction_final_refine` are
    those of public programs that read the same files, with paths relative to the root.
    """
    source, target = media_column(row, ("src_video",), "source"), media_column(row, ("tar_video",), "target")
    return Record(source, target, text_column(row, ("instruction_final_refine",), "prompt"))


ADAPTERS: dict[str, Adapter] = {
    "pairs": Adapter(pairs),
    "clips": Adapter(clips, edits=False),
    "nhr_edit": Adapter(nhr_edit),
    "gpt_image_edit": Adapter(gpt_image_edit),
    "x2edit": Adapter(x2edit),
    "pico_banana": Adapter(pico_banana),
    "koala": Adapter(koala, edits=False),
    "motion_bench": Adapter(motion_bench, edits=False),
    "ditto_style": Adapter(ditto_style),
    "openve": Adapter(openve),
    "reco": Adapter(reco),
}
"""The adapters by the name that `data.manifest.sets[].adapter` gives."""


def adapter(name: str) -> Adapter:
    """An adapter by its name. Raises ConfigError, with the names there are, for another."""
    if name not in ADAPTERS:
        raise ConfigError(f"there is no adapter {name!r} for data.manifest.sets: use one of {', '.join(ADAPTERS)}")
    return ADAPTERS[name]
