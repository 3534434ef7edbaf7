"""What of a prompt the model does not read, and that the user is told."""

import json
import logging

import pytest
import torch

from sama import cli
from sama.edit import edit_video
from sama.edit.request import EditRequest
from sama.model.pretext import EDIT_PREFIX
from sama.pipeline.prompts import unread
from sama.shapes import Bucket, Canvas
from tests.media import make_clip
from tests.tiny import tiny_pipeline, tiny_tokenizer

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
LONG = "make it snowy " * 30


@pytest.fixture(scope="module")
def short():
    """A pipeline that reads 24 tokens."""
    return tiny_pipeline(tower=False, **SMALL, max_sequence_length=24)


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=2, width=96, height=72)


def test_a_prompt_that_fits_is_read_whole():
    tokenizer = tiny_tokenizer()
    words = "make it snowy"  # 3 tokens, and 2 around them
    assert unread(words, tokenizer, 5) == ""
    assert unread(words, tokenizer, 4) == "snowy"
    assert unread("", tokenizer, 2) == ""
    assert unread(words, tokenizer, 1) == words


def test_a_word_that_is_cut_counts_as_unread():
    # "snow" is no word of this vocabulary: it is read as four letters.
    assert unread("make it snow", tiny_tokenizer(), 7) == "snow"
    assert unread("make it snow", tiny_tokenizer(), 8) == ""


def test_prefix_and_letters_in_front_take_their_tokens():
    tokenizer, words = tiny_tokenizer(), 'add subtitle "good day" in red'
    plain = len(tokenizer(words).input_ids)
    assert unread(words, tokenizer, plain) == ""
    with_prefix = len(tokenizer(f"{EDIT_PREFIX} {words}").input_ids)
    assert unread(words, tokenizer, with_prefix, EDIT_PREFIX) == ""
    assert unread(words, tokenizer, with_prefix - 1, EDIT_PREFIX) == "red"
    spelled = len(tokenizer(f"g o o d | d a y : {EDIT_PREFIX} {words}").input_ids)
    assert unread(words, tokenizer, spelled, EDIT_PREFIX, "first") == ""
    assert unread(words, tokenizer, spelled - 2, EDIT_PREFIX, "first") == "in red"
    assert unread(words, tokenizer, 6, EDIT_PREFIX, "first") == words  # not even the letters fit


@pytest.mark.parametrize(
    ("words", "cut"),
    [('Make it snowy, add a "GOOD DAY" and remove the blue cat, the dog, the swan', 1), (LONG.strip(), 0)],
)
def test_what_is_unread_does_not_change_the_text_states_and_the_word_before_it_does(words, cut, short):
    lost = short.unread(words)
    assert lost and words.endswith(lost)
    read = words.removesuffix(lost)
    kept = " ".join(lost.split()[:cut])  # of a word that is cut, the model reads the beginning
    states = short.encode_text([words])
    assert states.isfinite().all()
    assert torch.equal(states, short.encode_text([f"{read}{kept} {'xyzzy ' * 9}"]))
    *before, _ = read.split()
    assert not torch.equal(states, short.encode_text([" ".join([*before, "q", lost])]))


def test_an_edit_says_once_what_is_not_read_and_goes_on(clip, short, tmp_path):
    request = EditRequest(clip, LONG, tmp_path / "out.mp4", steps=1, negative_prompt="red " * 40)
    events = list(edit_video(request, short))
    lost, negative = short.unread(LONG), short.unread("red " * 40)
    warnings = [event.warning for event in events if event.warning]
    assert len(warnings) == 2
    assert lost in warnings[0] and "24 tokens" in warnings[0]
    assert negative in warnings[1] and "negative prompt" in warnings[1]
    result = events[-1].result
    assert (result.unread, result.unread_negative) == (lost, negative)
    stored = json.loads(result.settings.read_text(encoding="utf-8"))
    assert (stored["unread"], stored["unread_negative"]) == (lost, negative)


def test_an_edit_that_reads_all_says_nothing(clip, short, tmp_path):
    events = list(edit_video(EditRequest(clip, "make it snowy", tmp_path / "out.mp4", steps=1), short))
    assert not any(event.warning for event in events)
    assert (events[-1].result.unread, events[-1].result.unread_negative) == ("", "")


@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_the_command_line_says_it_in_one_line_and_exits_0(more, clip, short, tmp_path, capsys, caplog):
    short.save_pretrained(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--steps", "1", "--frames", "1", *more]
    level = logging.getLogger("sama.pipeline").level
    assert cli.main(["edit", str(clip), LONG, "-o", str(tmp_path / "out.mp4"), *given]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "token" in line]
    assert len(lines) == 1
    assert short.unread(LONG) in lines[0]
    assert "its end is lost" not in caplog.text  # the library's own warning would say it twice
    assert logging.getLogger("sama.pipeline").level == level
