"""Which variants of a model are compared, and how their scores are shown."""

from __future__ import annotations

import json

from megas2s.analysis.effects import AS_IT_IS, Variant, table, variants, write
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import frozen_names
from megas2s.models.reinitialising import reinitialised_names

CONFIG = ModelConfig(
    vocab_size=32, hidden_size=8, num_heads=2, ffn_size=8, num_encoder_layers=2, num_decoder_layers=1, tying="untied"
)
SCORES = {AS_IT_IS: {"accuracy": 0.75, "f": 0.5}, "encoder anew": {"accuracy": 0.5, "f": 0.25}}


def test_each_stack_is_frozen_and_drawn_anew_and_each_layer_if_so_wished():
    found = variants(CONFIG, stacks=["encoder", "decoder"], each_layer=True)
    assert found == {
        AS_IT_IS: Variant(),
        "encoder frozen": Variant(freeze=("encoder.*",)),
        "encoder anew": Variant(reinitialise=("encoder.layers",)),
        "encoder layer 1 frozen": Variant(freeze=("encoder.layers.0.*",)),
        "encoder layer 1 anew": Variant(reinitialise=("encoder.layers.0",)),
        "encoder layer 2 frozen": Variant(freeze=("encoder.layers.1.*",)),
        "encoder layer 2 anew": Variant(reinitialise=("encoder.layers.1",)),
        "decoder frozen": Variant(freeze=("decoder.*",)),
        "decoder anew": Variant(reinitialise=("decoder.layers",)),
    }
    assert list(variants(CONFIG, stacks=["encoder"], each_layer=False)) == [AS_IT_IS, "encoder frozen", "encoder anew"]


def test_patterns_mean_what_they_say():
    for name, variant in variants(CONFIG, stacks=["encoder", "decoder"], each_layer=True).items():
        if variant.freeze:
            still = frozen_names(CONFIG, variant.freeze)
            assert still
            assert all(part.startswith(name.split()[0]) for part in still)
        if variant.reinitialise:
            drawn = reinitialised_names(CONFIG, variant.reinitialise)
            assert drawn
            assert all(part.startswith(f"{name.split()[0]}.layers.") for part in drawn)


def test_scores_are_a_table_a_drawing_and_json(tmp_path):
    assert table(SCORES) == [
        "              accuracy         f",
        "as it is        0.7500    0.5000",
        "encoder anew    0.5000    0.2500",
    ]
    write(SCORES, {"recipe": "task.yaml"}, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "effects.json").read_text()) == {"recipe": "task.yaml", "scores": SCORES}
    assert (tmp_path / "out" / "effects.png").stat().st_size > 1000
