"""What the documents say is what the repository holds: figures follow from raw results, commands and files exist."""

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest

from benchmarks.parallel_steps import steps_table
from benchmarks.speed_table import tables as edit_tables
from benchmarks.training_costs import costs
from benchmarks.training_settings import results_table as speed_table
from training.evaluation.held_out.report import read_report
from training.evaluation.held_out.summary import summarise

PAGES = [
    Path("README.md"),
    Path("CONTRIBUTING.md"),
    Path("assets/sama-tiny/README.md"),
    Path("integrations/comfyui/README.md"),
    *sorted(Path("docs").rglob("*.md")),
]
BENCH = Path("docs/performance/results.json")
SPEED, ABLATION = Path("docs/training/speed.json"), Path("docs/ablation/results.json")
SAMPLERS = Path("docs/samplers/results.json")


@pytest.fixture(scope="module")
def scores():
    return summarise(read_report(Path("docs/benchmark/scores.json")))


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_benchmarks_table_follows_from_its_scores(scores):
    lines = Path("docs/benchmark/README.md").read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("| task | pairs |"))
    heads, seen = cells(lines[begin]), []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        row = dict(zip(heads, cells(line), strict=True))
        task, _ = row.pop("task"), row.pop("pairs")
        seen.append(task)
        for title, shown in row.items():
            mean = scores[task][title].mean
            assert (shown == "-") == math.isnan(mean), (task, title)
            if shown != "-":
                wanted = f"{100 * mean:.0f} %" if shown.endswith("%") else f"{mean:.1f}"
                assert shown == wanted, (task, title)
    assert seen == list(scores)


def test_the_readmes_figures_follow_from_the_scores(scores):
    text, every = Path("README.md").read_text(), scores["all"]
    ceiling, edits, kept = (every[name].mean for name in ("VAE, outside", "outside", "outside, source kept"))
    assert f"| {ceiling:.1f} / {edits:.1f} / {kept:.1f} dB |" in text
    assert f"(copying the source reaches {every['copy, inside'].mean:.1f}) | {every['inside'].mean:.1f} dB |" in text
    nearest = [(scores["add"][name].mean + scores["replace"][name].mean) / 2 for name in ("top 1", "top 5")]
    assert f"| {nearest[0]:.0%} / {nearest[1]:.0%} |".replace("%", " %") in text
    for name, begin in (("colour", "recoloured object"), ("followed", "instructions followed")):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {begin}")]
        assert cells(line)[1] == f"{every[name].mean:.0%}".replace("%", " %")
    (line,) = [line for line in text.splitlines() if line.startswith("| new subtitle read")]
    assert cells(line)[1] == f"{every['text read'].mean:.0%} / {every['letters'].mean:.0%}".replace("%", " %")


def test_the_table_of_costs_is_the_commands():
    assert costs() in Path("docs/training.md").read_text()


@pytest.mark.skipif(not SPEED.is_file(), reason=f"{SPEED} is not there: the speed of training is not measured")
def test_the_table_of_speed_follows_from_its_results():
    assert speed_table(SPEED) in Path("docs/training.md").read_text()


@pytest.mark.skipif(not BENCH.is_file(), reason=f"{BENCH} is not there: no benchmark of edits is kept")
def test_the_tables_of_edits_follow_from_their_results():
    assert edit_tables(BENCH) in Path("docs/performance.md").read_text()


def test_the_table_of_several_gpus_follows_from_its_results():
    rows = json.loads(Path("docs/performance/steps.json").read_text())
    assert len(rows) >= 16
    assert steps_table(rows) in Path("docs/serving.md").read_text()


@pytest.mark.skipif(not ABLATION.is_file(), reason=f"{ABLATION} is not there: no ablation is kept")
def test_the_ablations_page_follows_from_its_results():
    from training.evaluation.ablation.page import page_text
    from training.evaluation.ablation.results import read_record

    page = page_text(read_record(ABLATION), "ablation", Path("docs/ablation/notes.md"))
    assert page == Path("docs/ablation.md").read_text()


@pytest.mark.skipif(not SAMPLERS.is_file(), reason=f"{SAMPLERS} is not there: no samplers were compared")
def test_the_page_of_samplers_follows_from_its_results_and_defaults_lose_little():
    from sama.presets import PRESETS
    from training.evaluation.samplers.__main__ import command_of
    from training.evaluation.samplers.page import ALLOWED_LOSS, loss, page_text, used_by
    from training.evaluation.samplers.results import read_results

    results = read_results(SAMPLERS)
    assert page_text(results, command_of(results)) == Path("docs/samplers.md").read_text()
    for quality, variant in used_by().items():
        lost = max(loss(results, variant, where).mean for where in ("inside", "outside"))
        assert lost <= ALLOWED_LOSS, f"{quality} loses {lost} dB"
    for preset in PRESETS.values():  # few evaluations are nobody's default without a LoRA that is made for them
        assert preset.qualities["fast"].said and (preset.quality != "fast" or preset.qualities["fast"].few_steps)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_and_files_that_a_page_names_are_there(page):
    text = page.read_text()
    for name in set(re.findall(r"-m ((?:sama|training|benchmarks)[\w.]*)", text)):
        assert importlib.util.find_spec(name.rstrip(".")), f"{page} names {name}"
    for name in set(re.findall(r"training/configs/\w+\.yaml", text)):
        assert Path(name).is_file(), f"{page} names {name}"
    for name in set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text)):
        assert (page.parent / name).exists(), f"{page} links to {name}"


def test_the_guide_to_the_code_names_what_is_there():
    text = Path("CONTRIBUTING.md").read_text()
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    for path in (name for name in quoted if re.fullmatch(r"\w[\w.-]*/[\w./-]*", name)):
        assert Path(path).exists() or path == "tests/unit/test_x.py", f"CONTRIBUTING.md names {path}"
    code = "\n".join(file.read_text() for room in ("sama", "ui", "training") for file in Path(room).rglob("*.py"))
    defined = set(re.findall(r"^\s*(?:def|class) (\w+)", code, flags=re.M))
    defined |= set(re.findall(r"^(\w+)(?:: [^=\n]+)? = ", code, flags=re.M))
    words = {"docs", "training", "source", "target", "result", "styles"}  # folders, the field's words, a key of a table
    names = {name for name in quoted if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?", name)} - words
    assert len(names) > 40
    assert {part for name in names for part in name.split(".")} <= defined


def test_every_example_of_the_page_is_complete_and_says_whose_its_clip_is():
    from ui.repair.shipped import FOLDER
    from ui.tabs.examples import load_examples

    folder = Path("assets/examples")
    examples = load_examples(folder)
    folders = {each.name for each in folder.iterdir() if each.is_dir()}
    assert {edit.folder.name for edit in examples} == folders - {FOLDER}
    assert all(edit.credit and edit.tokens() is not None for edit in examples)
    assert examples[0].settings["kept_detail"] and examples[0].width > 2 * 256
