"""The judge's client, against a real server with a server's faults; strict scores; answers that survive."""

import json
import threading
import time
from argparse import ArgumentTypeError

import pytest

from tests.judging import Reply, judge_server
from tests.media import barcode_frame, make_clip, make_text, read_barcode
from training.data.files.clips import ClipError
from training.data.files.manifest import Media
from training.errors import JudgeError
from training.evaluation.judge.answers import AnswerLog, read_answers
from training.evaluation.judge.client import JudgeClient, NoAnswerError, RefusedError, Server, StoppedError, text_part
from training.evaluation.judge.media import Pair
from training.evaluation.judge.questions import Criterion, Question
from training.evaluation.judge.scores import MalformedError, parse_scores
from training.evaluation.shard import WHOLE, Shard

HELLO = [text_part('Greet me. {"a": <number>, "b": <number>}')]
ONE = Question("one", (Criterion("a", "Is it?"), Criterion("b", "Is it not?")))


def client(url, **settings):
    settings = {"timeout": 5, "retries": 3} | settings
    return JudgeClient(Server(url, "eye", **settings))


def replies(*given):
    """Each of them once, in order, and the last one for ever."""
    remaining = list(given)
    return lambda asked: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def test_the_request_is_what_the_protocol_asks_for(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with judge_server(replies(Reply("hello"))) as judge:
        extra = {"top_p": 0.5}
        answer = client(judge.url + "/", key="secret", temperature=0.3, max_tokens=7, extra=extra).ask(HELLO, seed=4)
        client(judge.url).ask(HELLO)
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.answer_tokens) == ("hello", "stop", 100, 10)
    asked = judge.asked[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in judge.asked[1].headers
    assert asked.body == {
        "model": "eye",
        "messages": [{"role": "user", "content": HELLO}],
        "temperature": 0.3,
        "max_tokens": 7,
        "seed": 4,
        "top_p": 0.5,
    }


def test_a_key_is_never_shown():
    assert "secret" not in repr(Server("http://x/v1", "eye", key="secret"))


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500),
        Reply(status=503, body=b"not ready"),
        Reply(status=429),
        Reply(drop=True),
        Reply("half", cut=True),
        Reply("late", delay=1.5),
        Reply("slow", drip=0.1),
    ],
    ids=["500", "503", "429", "dropped", "cut short", "no answer in time", "dripping"],
)
def test_passing_faults_are_asked_again(fault):
    with judge_server(replies(fault, Reply("at last"))) as judge:
        assert client(judge.url, timeout=0.7).ask(HELLO).text == "at last"
        assert len(judge.asked) == 2


def test_a_server_that_is_not_there_is_given_up_after_the_retries():
    with judge_server() as judge:
        url = judge.url
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match="refused"):
        client(url, retries=1).ask(HELLO)
    assert 0.3 < time.monotonic() - began < 10


def test_retries_end():
    fault = Reply(status=500, body=b'{"error": {"message": "out of memory"}}', headers={"Retry-After-Ms": "1"})
    with judge_server(replies(fault)) as judge:
        with pytest.raises(NoAnswerError, match="HTTP 500: out of memory"):
            client(judge.url, retries=2).ask(HELLO)
        assert len(judge.asked) == 3


def test_retry_after_is_honoured():
    with judge_server(replies(Reply(status=429, headers={"Retry-After": "1"}), Reply("now"))) as judge:
        assert client(judge.url).ask(HELLO).text == "now"
    first, second = (asked.at for asked in judge.asked)
    assert second - first > 0.9  # without the header it is half a second at most


def test_a_stopped_client_asks_nothing():
    with judge_server() as judge:
        asking = client(judge.url)
        asking.stop()
        with pytest.raises(StoppedError):
            asking.ask(HELLO)
    assert not judge.asked


def test_refusals_are_not_repeated():
    with judge_server(replies(Reply(status=400, body=b'{"error": {"message": "too many pictures"}}'))) as judge:
        with pytest.raises(RefusedError, match="HTTP 400: too many pictures"):
            client(judge.url).ask(HELLO)
        assert len(judge.asked) == 1


@pytest.mark.parametrize("status", [401, 404, 302])
def test_what_no_request_can_pass_is_the_users_to_put_right(status):
    with judge_server(replies(Reply("no"))) as elsewhere:
        away = Reply(status=status, headers={"Location": elsewhere.url})
        with judge_server(replies(away)) as judge, pytest.raises(JudgeError, match="--model"):
            client(judge.url, key="secret").ask(HELLO)
        assert len(judge.asked) == 1
        assert not elsewhere.asked  # neither pictures nor key go where a redirection points


def test_requests_at_once_are_bounded():
    with judge_server(lambda asked: Reply("so", delay=0.1)) as judge:
        asking = client(judge.url, concurrency=3)
        threads = [threading.Thread(target=asking.ask, args=(HELLO,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(judge.asked) == 10
    assert judge.most_at_once == 3


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[1]", b"\xff"]
)
def test_an_answer_outside_the_protocol_is_kept_as_it_is(body):
    with judge_server(replies(Reply(body=body))) as judge:
        answer = client(judge.url).ask(HELLO)
    assert answer.text == body.decode("utf-8", "replace")
    with pytest.raises(MalformedError):
        parse_scores(answer.text, ONE)


@pytest.mark.parametrize("settings", [{"url": "localhost:8000"}, {"model": ""}, {"concurrency": 0}, {"timeout": 0}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(JudgeError):
        Server(**({"url": "http://x/v1", "model": "eye"} | settings))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 8, "b": 7.5, "explanation": "ok"}',
        '  {"b": 7.5,\n "a": 8}  ',
        'Here you are:\n```json\n{"a": 8, "b": 7.5}\n```\nAnything else?',
        'My grades: {"a": 8, "b": 7.5}.',
        '<think>perhaps {"a": 1, "b": 1}</think>\n{"a": 8, "b": 7.5}',
        '{"a": 8, "b": 7.5, "explanation": "a {curly} word"}',
    ],
)
def test_scores_are_read(text):
    assert parse_scores(text, ONE) == {"a": 8, "b": 7.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSON"),
        ("a is 8 and b is 7", "JSON"),
        ('{"a": 8}', "b is missing"),
        ('{"a": 8, "b": "7"}', "not a number"),
        ('{"a": 8, "b": true}', "not a number"),
        ('{"a": 8, "b": null}', "not a number"),
        ('{"a": 8, "b": NaN}', "not a number"),
        ('{"a": 8, "b": 1e999}', "not a number"),
        ('{"a": 8, "b": 11}', "outside 1 to 10"),
        ('{"a": 0, "b": 5}', "outside 1 to 10"),
        ('{"a": 0, "b": 0}', "outside 1 to 10"),
        ('{"a": -3, "b": 5}', "outside 1 to 10"),
        ('{"a": 8, "b": 7', "JSON"),
        ('{"draft": {"a": 9, "b": 9}, "a": 8, "b"', "JSON"),
        ('{"a": 8, "b": 7} or rather {"a": 2, "b": 1}', "JSON"),
        ('{"a": 8, "b": 7, "a": 2}', "twice"),
        ('[{"a": 8, "b": 7}, {"a": 2, "b": 7}]', "JSON"),
        ('{"a": 8, "b": [7]}', "not a number"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_scores_are_not_guessed(text, reason):
    with pytest.raises(MalformedError, match=reason):
        parse_scores(text, ONE)


def test_zero_is_for_an_edit_that_did_nothing():
    question = Question("one", ONE.criteria, zero_if_unchanged=True)
    assert parse_scores('{"a": 0, "b": 0}', question) == {"a": 0, "b": 0}
    with pytest.raises(MalformedError, match="outside"):
        parse_scores('{"a": 0, "b": 5}', question)


def test_a_question_names_the_instruction_and_every_key():
    text = ONE.text('Write "{hello}" on it')
    assert 'Write "{hello}" on it' in text
    assert '"a": <number>' in text and '"b": <number>' in text
    assert Question("one", ONE.criteria, low=0).fingerprint() != ONE.fingerprint()


def pair_of(source, edited, frames, side, **more):
    return Pair(Media(str(source)), Media(str(edited)), frames, side, **more)


def test_a_pair_shows_the_same_moments_of_both(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=21, fps=10)
    edited = make_clip(tmp_path / "b.mp4", frames=21, fps=24)
    pair = pair_of(source, edited, frames=5, side=96)
    assert [numbers_of(clip) for clip in (pair.source, pair.edited)] == [[0, 5, 10, 15, 20]] * 2
    assert numbers_of(pair_of(source, edited, frames=5, side=96, offset=4).source) == [4, 8, 12, 16, 20]
    assert len(pair_of(source, edited, frames=100, side=96).source) == 21
    # A result of other length is compared by time, over what both have.
    longer = make_clip(tmp_path / "c.mp4", frames=60, fps=20)
    by_time = pair_of(source, longer, frames=3, side=96)
    assert (numbers_of(by_time.source), numbers_of(by_time.edited)) == ([0, 10, 20], [0, 20, 40])


def numbers_of(pictures):
    import numpy as np

    return [read_barcode(np.asarray(picture)) for picture in pictures]


def test_a_pair_in_words_and_pictures(tmp_path):
    from PIL import Image

    source = make_clip(tmp_path / "a.mp4", frames=3, width=96, height=64)
    edited = make_clip(tmp_path / "b.mp4", frames=3, width=96, height=64, constant=True)
    pair = pair_of(source, edited, frames=2, side=48)
    kinds = ["text", "image_url", "image_url"] * 2
    first, second = pair.parts("source first"), pair.parts("edited first")
    assert [part["type"] for part in first] == [part["type"] for part in second] == kinds
    assert first[0]["text"].startswith("Original video") and first[3]["text"].startswith("Edited video")
    assert second[:3] == first[3:] and second[3:] == first[:3]
    with judge_server(replies(Reply("seen"))) as judge:
        client(judge.url).ask(pair.parts("side by side"))
    assert [picture.size for picture in judge.asked[0].pictures] == [(96, 32), (96, 32)]

    Image.fromarray(barcode_frame(5)).save(tmp_path / "p.png")
    still = pair_of(tmp_path / "p.png", tmp_path / "p.png", frames=8, side=640)
    assert still.picture and still.source[0].size == (96, 64)
    with pytest.raises(ClipError, match="picture and the other a video"):
        pair_of(tmp_path / "p.png", source, frames=8, side=640)
    with pytest.raises(ClipError):
        pair_of(make_text(tmp_path / "t.mp4"), source, frames=8, side=640)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (2, 0, 1):
        Image.fromarray(barcode_frame(number)).save(folder / f"{number:03}.png")
    assert numbers_of(pair_of(folder, source, frames=3, side=96).source) == [0, 1, 2]


def answer(key, request="one:0", outcome="scored", **said):
    said = {"scores": {"a": 8.0, "b": 6.0}} if outcome == "scored" else {"reason": "so"} | said
    return {"key": key, "request": request, "outcome": outcome, **said}


def test_answers_are_appended_and_a_torn_line_goes(tmp_path):
    with AnswerLog(tmp_path, WHOLE, {"model": "eye"}) as log:
        log.append(answer("0a"))
        log.append(answer("0b", outcome="malformed"))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"key": "0c", "request": "one:0", "outco')
    assert set(read_answers(tmp_path, {"model": "eye"})) == {"0a", "0b"}
    assert len(log.path.read_bytes()) > len(whole)  # reading changes nothing
    with AnswerLog(tmp_path, WHOLE, {"model": "eye"}) as log:
        log.append(answer("0a", "one:1"))
    lines = log.path.read_bytes().splitlines()
    assert b"\n".join(lines[:3]) + b"\n" == whole
    assert json.loads(lines[3])["request"] == "one:1"
    standing = read_answers(tmp_path, {"model": "eye"})["0a"]
    assert standing.scored == ["one:0", "one:1"]
    assert standing.grades([ONE], 2, 3) == {"a": 8, "b": 6} and standing.grades([ONE], 3, 3) is None
    assert not standing.lacks("one:0", 3) and standing.lacks("one:2", 3)


def test_a_torn_line_longer_than_a_block_goes(tmp_path):
    with AnswerLog(tmp_path, WHOLE, {}) as log:
        whole = log.path.read_bytes()
    log.path.write_bytes(whole + b"x" * 200_000)
    with AnswerLog(tmp_path, WHOLE, {}):
        assert log.path.read_bytes() == whole
    log.path.write_bytes(b"x" * 200_000)
    with AnswerLog(tmp_path, WHOLE, {}):
        assert json.loads(log.path.read_bytes()) == {"settings": {}}


def test_answers_of_another_setting_are_not_mixed(tmp_path):
    folder = tmp_path / "scored" / "answers"
    with AnswerLog(folder, WHOLE, {"model": "eye", "frames": 8}):
        pass
    with pytest.raises(JudgeError, match=r"frames was 8 and is 4.*--out"):
        read_answers(folder, {"model": "eye", "frames": 4})


def test_one_file_has_one_writer(tmp_path):
    with (
        AnswerLog(tmp_path, Shard(0, 2), {}),
        AnswerLog(tmp_path, Shard(1, 2), {}),
        pytest.raises(JudgeError, match="another process"),
    ):
        AnswerLog(tmp_path, Shard(0, 2), {})


def test_a_damaged_line_is_left_out(tmp_path, caplog):
    with AnswerLog(tmp_path, WHOLE, {}) as log:
        log.append(answer("0a"))
    with log.path.open("ab") as file:
        file.write(b'{"key": "0b"}\n{"key": 3, "req\n[]\n')
    assert list(read_answers(tmp_path, {})) == ["0a"]
    assert "line 3" in caplog.text and "line 4" in caplog.text


def test_trouble_is_final_only_when_asking_again_is_no_use(tmp_path):
    with AnswerLog(tmp_path, WHOLE, {}) as log:
        for key, outcome in (("0a", "unanswered"), ("0b", "refused"), ("0c", "unreadable"), ("0d", "malformed")):
            log.append(answer(key, outcome=outcome))
        log.append(answer("0e", outcome="refused"))
        log.append(answer("0e"))
    standings = read_answers(tmp_path, {})
    grades = {key: standing.grades([ONE], 1, attempts=2) for key, standing in standings.items()}
    scores = {"a": 8, "b": 6}
    assert grades == {"0a": None, "0b": "refused: so", "0c": "unreadable: so", "0d": None, "0e": scores}
    assert standings["0d"].grades([ONE], 1, attempts=1) == "malformed: so"


def test_shards_share_all_keys_among_them():
    keys = [f"{number * 7919:024x}" for number in range(500)]
    for count in (1, 3, 8):
        owners = [[index for index in range(count) if Shard(index, count).has(key)] for key in keys]
        assert all(len(found) == 1 for found in owners)
        assert len({found[0] for found in owners}) == count
    assert Shard.parse("7/8") == Shard(7, 8)
    for text in ("8/8", "1", "a/b", "-1/3", "0/0", "1/3/5"):
        with pytest.raises(ArgumentTypeError, match="write i/n"):
            Shard.parse(text)
