"""Samplers are compared by what they compute and show, and the page says what the raw results hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sama.presets import PRESETS, QUALITIES
from sama.shapes import Bucket
from tests.tiny import tiny_clip, tiny_pipeline
from training.evaluation.held_out.metrics import psnr
from training.evaluation.held_out.scoring import Scorer
from training.evaluation.samplers import __main__ as command
from training.evaluation.samplers.page import Mean, loss, page_text, used_by
from training.evaluation.samplers.results import Results, ResultsError, read_results, write_results
from training.evaluation.samplers.runs import CaseKey, CaseScore, Comparison, Measured
from training.evaluation.samplers.variants import EXACT, VARIANTS, Variant
from training.synth.edits.tasks import Edit
from training.synth.scenes.render import DrawnCase

ABOUT = {"weights": "w", "device": "CPU", "torch": "2", "diffusers": "0", "frames": 5, "timed": 1, "ocr": False}


@pytest.fixture(scope="module")
def comparison():
    """Three cases of two sizes; the last one is to be left as it is."""
    comparison = Comparison(tiny_pipeline(), batch=2, timed=1)
    scorer = Scorer(None, ocr=False)
    for number, (width, task) in enumerate([(48, "style"), (48, "style"), (32, "identity")]):
        source = tiny_clip(width=width, seed=number).numpy()
        target = source if task == "identity" else source // 2
        key = CaseKey(task, number, Bucket(width, 32), 5)
        comparison.add(key, DrawnCase(source, target, Edit(task)), "Make it snowy", scorer)
    return comparison


def test_a_sampler_is_measured_by_what_it_computes_and_shows(comparison):
    exact = comparison.measure(EXACT)
    assert exact.evaluations == 2 * EXACT.steps
    assert [score.exact for score in exact.scores.values()] == [None] * 3
    counted = {
        variant: comparison.measure(variant)
        for variant in (
            Variant("euler", 4),
            Variant("unipc", 4),
            Variant("euler", 4, guided=False),
            Variant("euler", 4, interval=(0.9, 1)),
            Variant("euler", 4, cache=1.0),
        )
    }
    assert [measured.evaluations for measured in counted.values()] == [8, 8, 4, 6, 2]
    assert len({tuple(measured.scores.values()) for measured in counted.values()}) == len(counted)
    assert all(measured.seconds > 0 for measured in counted.values())

    few = Variant("euler", 4, guided=False, few_steps=True)
    with pytest.raises(ValueError, match="has no LoRA for few steps"):
        comparison.measure(few)
    random = torch.Generator().manual_seed(0)
    weights = {f"blocks.0.ffn.2.lora_{side}.weight": torch.randn(shape, generator=random)
               for side, shape in (("A", (2, 64)), ("B", (48, 2)))}  # fmt: skip
    comparison.pipeline.load_lora_weights(weights)
    worn, bare = comparison.measure(few), comparison.measure(replace(few, few_steps=False))
    assert worn.evaluations == 4 and worn.scores != bare.scores == counted[replace(few, few_steps=False)].scores
    comparison.pipeline.unload_lora_weights()

    case = comparison.cases[1]
    first, reference = (
        comparison.pipeline(
            video=case.scorer.case.source, prompt="Make it snowy", num_inference_steps=steps, guidance_scale=scale,
            generator=torch.Generator().manual_seed(1),
        ).frames[0]
        for steps, scale in ((4, 1.0), (EXACT.steps, None))
    )  # fmt: skip
    first, reference = ((clip * 255).round().astype(np.uint8) for clip in (first, reference))
    score = counted[Variant("euler", 4, guided=False)].scores["style-1"]
    assert score.exact == pytest.approx(psnr(first, reference), abs=0.1)
    assert score.inside == pytest.approx(psnr(first, case.scorer.case.target, case.scorer.mask), abs=0.1)
    assert counted[Variant("euler", 4)].scores["identity-2"].inside is None


def test_results_grow_and_shares_join(tmp_path):
    def measured(evaluations, *names):
        scores = {name: CaseScore(30.0, 20.0, None, True) for name in names}
        return Measured(evaluations, 0.5, scores)

    few = Variant("euler", 10, interval=(0.7, 1), cache=0.1)
    results, other = Results(ABOUT), Results(ABOUT)
    results.add(few, measured(10, "style-1"))
    results.add(EXACT, measured(80, "style-1"))
    other.add(few, measured(16, "style-2", "style-3"))
    other.add(replace(few, few_steps=True), measured(4, "style-2"))
    write_results(other, tmp_path / "deep" / "other.json")
    assert read_results(tmp_path / "deep" / "other.json") == other
    results.join(read_results(tmp_path / "deep" / "other.json"))
    assert results.measured[few].evaluations == 14
    assert not results.lacks(few, ["style-1", "style-3"]) and results.lacks(EXACT, ["style-2"])
    write_results(results, tmp_path / "all.json")
    assert list(read_results(tmp_path / "all.json").measured) == [EXACT, few, replace(few, few_steps=True)]
    with pytest.raises(ResultsError, match="other weights"):
        results.join(Results(ABOUT | {"weights": "others"}))
    (tmp_path / "no.json").write_text(json.dumps({"about": {}}))
    with pytest.raises(ResultsError, match="no results"):
        read_results(tmp_path / "no.json")


def test_the_page_tells_losses_pair_by_pair_and_what_is_in_use():
    results = Results(ABOUT)
    results.add(
        EXACT, Measured(80, 4.0, {"style-1": CaseScore(None, 20, 30, True), "add-2": CaseScore(None, 18, None, None)})
    )
    fast = used_by()["fast"]
    results.add(
        fast, Measured(4, 0.5, {"style-1": CaseScore(25.0, 19, 31, False), "add-2": CaseScore(35.0, 17.5, 9, None)})
    )
    assert loss(results, fast, "inside") == Mean(0.75, pytest.approx(0.25), 2)
    assert loss(results, fast, "outside")[::2] == (-1, 1)
    page = page_text(results, "the command")
    (row,) = [line for line in page.splitlines() if "**Fast**" in line]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "4", "0.50", "8.0", "30.0", "18.2", "+0.75 ± 0.25", "20.0", "-1.00", "-",
    ]  # fmt: skip
    assert "rapidocr was not installed" in page
    assert "rapidocr" not in page_text(Results(ABOUT | {"ocr": True}, results.measured), "the command")
    assert "| sampler | style | add |" in page or "| sampler | add | style |" in page


def test_what_is_in_use_is_compared_and_every_sampler_has_one_name():
    assert set(used_by()) == set(QUALITIES)
    assert set(used_by().values()) <= set(VARIANTS)
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert all(set(preset.qualities) == set(QUALITIES) for preset in PRESETS.values())


def test_bad_input_is_one_sentence(tmp_path, capsys):
    page = tmp_path / "page.md"
    for arguments, said in (
        (["--pack", str(tmp_path)], "there is no pack"),
        (["--page-only"], "no results of Euler 40"),
    ):
        assert command.main(["--out", str(page), *arguments]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["--samplers", "Euler 3"])
    assert "Euler 40" in capsys.readouterr().err
    assert not page.exists()
