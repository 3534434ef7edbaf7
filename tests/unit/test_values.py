"""Numbers on the command lines of training: bounds as in configurations, told before anything is loaded."""

import argparse

import pytest

from training import evaluate, train
from training.data import check
from training.evaluation.ablation.__main__ import main as ablation
from training.evaluation.benches.__main__ import main as benches
from training.filter.__main__ import main as filter_pairs
from training.values import Count, FileName, Frames, Positive, Share, argument

FILTER = ["--manifest", "pairs.jsonl", "--out", "scored"]
BENCHES = ["reco", "--cases", "cases", "--results", "results"]
RUN, CASES, REAL = ["run"], ["cases"], ["real", "--clips", "here", "--out", "there.jpg"]
ABLATION = ["run", "--config", "training/configs/tiny_sft.yaml"]
AT_LEAST_1, AT_LEAST_0 = "must be a whole number of at least 1, not", "must be a whole number of at least 0, not"

BAD = [
    (train.main, ["--config", "x.yaml"], "--dry-run", "0", AT_LEAST_1),
    (train.main, ["--config", "x.yaml"], "--dry-run", "-2", AT_LEAST_1),
    (check.main, ["--config", "x.yaml"], "--places", "0", AT_LEAST_1),
    (check.main, ["--config", "x.yaml"], "--threads", "-1", AT_LEAST_1),
    (check.main, ["--config", "x.yaml"], "--parts", "0", AT_LEAST_1),
    (check.main, ["--config", "x.yaml"], "--part", "-1", AT_LEAST_0),
    (filter_pairs, FILTER, "--concurrency", "0", AT_LEAST_1),
    (filter_pairs, FILTER, "--timeout", "0", "must be a number above 0, not 0"),
    (filter_pairs, FILTER, "--timeout", ".inf", "must be a number above 0, not Infinity"),
    (filter_pairs, FILTER, "--retries", "-1", AT_LEAST_0),
    (filter_pairs, FILTER, "--temperature", "-0.5", "must be a number of at least 0, not -0.5"),
    (filter_pairs, FILTER, "--max-tokens", "0", AT_LEAST_1),
    (filter_pairs, FILTER, "--runs", "0", AT_LEAST_1),
    (filter_pairs, FILTER, "--attempts", "0", AT_LEAST_1),
    (filter_pairs, FILTER, "--frames", "1.5", AT_LEAST_1),
    (filter_pairs, FILTER, "--side", "8", "must be a whole number of at least 16, not 8"),
    (benches, BENCHES, "--runs", "0", AT_LEAST_1),
    (benches, BENCHES, "--seed", "-1", "must be a whole number from 0 to 4294967295, not -1"),
    (benches, BENCHES, "--steps", "0", "must be a whole number from 1 to 200, not 0"),
    (benches, BENCHES, "--edit-frames", "0", AT_LEAST_1),
    (ablation, ABLATION, "--groups", "0", AT_LEAST_1),
    (ablation, ABLATION, "--budget-minutes", "-1", "must be a number of at least 0, not -1"),
    (ablation, ABLATION, "--steps", "0", AT_LEAST_1),
    (ablation, ABLATION, "--seeds", "0", AT_LEAST_1),
    (ablation, ABLATION, "--per-task", "0", AT_LEAST_1),
    (ablation, ABLATION, "--workers", "0", AT_LEAST_1),
    (ablation, ABLATION, "--share", "4/4", "'4/4' is no part: write i/n"),
    (evaluate.main, RUN, "--workers", "0", AT_LEAST_1),
    (evaluate.main, RUN, "--steps", "0", AT_LEAST_1),
    (evaluate.main, RUN, "--guidance", "strong", "must be a number of at least 0, not 'strong'"),
    (evaluate.main, RUN, "--wordings", "-1", AT_LEAST_0),
    (evaluate.main, RUN, "--worded", "-1", AT_LEAST_0),
    (evaluate.main, RUN, "--store", "102", "must be a whole number from 0 to 101, not 102"),
    (evaluate.main, RUN, "--per-task", "0", AT_LEAST_1),
    (evaluate.main, RUN, "--sheets", "-1", AT_LEAST_0),
    (evaluate.main, CASES, "--frames", "16", "16 is not of the form 4k+1; 17 is"),
    (evaluate.main, CASES, "--paraphrases", "-1", AT_LEAST_0),
    (evaluate.main, REAL, "--frames", "0", AT_LEAST_1),
]


@pytest.mark.parametrize(("command", "others", "option", "value", "sentence"), BAD)
def test_a_number_out_of_bounds_is_refused_with_status_2(command, others, option, value, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        command([*others, f"{option}={value}"])
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: {sentence}" in told


def test_a_part_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        check.main(["--config", "x.yaml", "--part", "4", "--parts", "4"])
    assert ended.value.code == 2
    assert "--part 4: counted from 0, there is no such part of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(Count, "3", 3), (Positive, "2e-5", 2e-5), (Positive, "4", 4.0), (Share, "1", 1.0), (Frames, "81", 81)],
)
def test_good_values_are_read(kind, text, value):
    read = argument(kind)(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(("kind", "text"), [(Count, "[1"), (Count, ""), (Frames, "2"), (FileName, "a/b"), (Share, "2")])
def test_bad_values_are_refused(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        argument(kind)(text)
