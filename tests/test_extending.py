"""docs/extending.md: its objective is whole, keeps the contract, and trains."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from megas2s.models.config import ModelConfig
from megas2s.models.transformer import build
from megas2s.objectives.base import Shape
from megas2s.rng import generator
from megas2s.tokenizer.vocab import stand_in

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"


def code_of_the_page() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return code


@pytest.fixture(scope="module")
def objective():
    module = types.ModuleType("middle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "middle", module)  # dataclasses look their module up
        exec(compile(code_of_the_page(), str(PAGE), "exec"), module.__dict__)
        yield module.Middle(share=0.5)


def test_rows_have_the_lengths_promised_and_hold_the_window(objective):
    shape = Shape(stand_in(512), 40, 24)
    tokens = objective.window_size(shape)
    source, target, full = objective.row_lengths(tokens, shape)
    assert full
    assert (source <= 40, target <= 24) == (True, True)
    window = np.arange(tokens) + 260
    example = objective.corrupt(window, generator(0, "middle"), shape, 0)
    assert (len(example["input_ids"]), len(example["labels"])) == (source, target)
    place = example["input_ids"].tolist().index(shape.vocabulary.mask)
    held = [*example["input_ids"][:place], *example["labels"][:-1], *example["input_ids"][place + 1 : -1]]
    assert held == window.tolist()


def test_it_trains_a_model(objective):
    shape = Shape(stand_in(512), 40, 24)
    window = np.arange(objective.window_size(shape)) + 260
    example = objective.corrupt(window, generator(0, "middle"), shape, 0)
    batch = {name: torch.from_numpy(row)[None] for name, row in example.items()}
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = build(ModelConfig(vocab_size=512, max_positions=64, dropout=0.0, **sizes))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        part = objective.loss(model(batch), batch)["middle"]
        losses.append(float(part.total.detach() / objective.counts(batch)["middle"].sum()))
        optimizer.zero_grad()
        part.total.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_the_import_and_the_name_are_all_that_a_recipe_needs(shell, recipe_data, tmp_path):
    """In a copy of the package: the page's file, and the line that the page says."""
    shutil.copytree(ROOT / "megas2s", tmp_path / "megas2s", ignore=shutil.ignore_patterns("__pycache__"))
    objectives = tmp_path / "megas2s" / "objectives"
    (objectives / "middle.py").write_text(code_of_the_page(), encoding="utf-8")
    listed = (objectives / "mixture.py").read_text(encoding="utf-8")
    name, where = "Reconstruction = Denoising | ", "from megas2s.objectives.span_corruption import SpanCorruption\n"
    assert (listed.count(name), listed.count(where)) == (1, 1)
    listed = listed.replace(name, name + "Middle | ").replace(
        where, where + "from megas2s.objectives.middle import Middle\n"
    )
    (objectives / "mixture.py").write_text(listed, encoding="utf-8")
    stage = {**recipe_data["stages"][2], "objective": {"name": "middle", "share": 0.5}, "engine": {"name": "local"}}
    del stage["init"]
    data = {**recipe_data, "stages": [{**stage, "decoder": {"tying": "tied"}}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    command = [sys.executable, str(ROOT / "launch" / "pretrain.py"), str(tmp_path / "recipe.yaml")]
    done = shell(command, timeout=120, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout
    assert "stage seq2seq (middle), 4 steps" in done.stdout
