"""tools/inspect_batch.py: what it shows of a recipe, and what it refuses."""

from __future__ import annotations

import pytest

SCRIPT = "tools/inspect_batch.py"


@pytest.fixture
def recipe(recipe_data, write_recipe):
    return write_recipe(recipe_data)


def test_it_shows_texts_shares_and_fill(script, recipe):
    shown = script(SCRIPT, recipe, "--rows", 3).stdout
    assert "objective mlm, 8 rows a step from windows of 63 tokens" in shown
    assert "64 source columns, all full; fill of 256 samples: source 100.0%" in shown
    for language in ("ar", "en", "sw", "zh"):
        assert f"\n{language}/" in shown
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("sample ")] == ["0", "1", "2"]
    assert "<mask> -> " in shown


def test_a_later_step_of_another_stage_shows_its_own_samples(script, recipe):
    shown = script(SCRIPT, recipe, "--stage", "seq2seq", "--step", 1000, "--rows", 1).stdout
    assert "objective denoising" in shown
    assert "sample 8000 (" in shown
    assert "\n  target    " in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "seq2sq"], "the recipe has no such stage; did you mean 'seq2seq'?"),
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        (["--step", "-1"], "--step must not be negative, got -1"),
        (["corpus=nowhere"], "there is no corpus at nowhere"),
        (["stages.mlm.objective.mask_prob=0.2"], "did you mean 'mask_probability'?"),
    ],
)
def test_mistakes_get_a_sentence(script, recipe, arguments, sentence):
    ended = script(SCRIPT, recipe, *arguments)
    assert ended.returncode == 2
    assert sentence in ended.stdout
    assert "Traceback" not in ended.stdout
