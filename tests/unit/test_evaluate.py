"""The benchmark's arithmetic: what is averaged, and how a table is written."""

import math

from training.evaluate import Score, as_markdown, summarise


def score(task, **values):
    numbers = dict.fromkeys(
        ("copy_inside", "inside", "outside", "overall", "vae", "vae_inside", "kept_inside", "kept_outside", "flicker",
         "true_flicker"), 20.0,
    )  # fmt: skip
    return Score(task=task, seed=1, instruction="", **{**numbers, **values})


def test_means_are_per_task_and_over_all():
    table = summarise([score("add", inside=10.0), score("add", inside=20.0), score("style", inside=30.0)])
    assert table["add"]["inside"] == 15.0
    assert table["all"]["inside"] == 20.0
    assert table["all"]["pairs"] == 3


def test_a_measure_that_does_not_apply_counts_for_nothing():
    table = summarise([score("style", outside=math.nan), score("add", outside=26.0, rank=1), score("add", rank=9)])
    assert math.isnan(table["style"]["outside"])
    assert table["all"]["outside"] == 23.0
    assert table["add"]["top1"] == 0.5
    assert table["add"]["top5"] == 0.5
    assert math.isnan(table["style"]["top1"])


def test_a_subtitle_is_read_from_four_letters_in_five():
    table = summarise([score("subtitle_add", text=0.8), score("subtitle_add", text=0.7)])
    assert table["subtitle_add"]["text_read"] == 0.5


def test_the_table_has_a_row_per_task_and_dashes_for_what_does_not_apply():
    lines = as_markdown(summarise([score("add", rank=2), score("style", outside=math.nan)])).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["add", "style", "all"]
    assert "| 100 % |" in lines[2]
    assert "| - |" in lines[3]
