"""What a dry run and a launch refuse before anything is built: hand-offs, tokenizers and engines of every stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megas2s import files
from megas2s.data.corpus import Corpus
from megas2s.errors import BadCheckpoint, BadConfig, BadData, Refusal
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights, save_weights
from megas2s.prepare import announcement, dry_run, open_corpus, prepare
from megas2s.recipe import Recipe
from megas2s.spec import parse
from megas2s.train.state import TrainState

SHAPE = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 2, "max_positions": 64}


@pytest.fixture
def weights(corpus_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Publish weights that the first stage of `local_recipe` may start from, unless changed; gives their folder."""

    def publish(metadata: dict[str, str] | None = None, **changes: object) -> str:
        config = ModelConfig(**{**SHAPE, "vocab_size": 2048, **changes})
        folder = tmp_path / "weights"
        tensors = ((name, value.detach()) for name, value in canonical_parameters(build(config)).items())
        facts = {"tokenizer": Corpus.open(corpus_folder).fingerprint} if metadata is None else metadata
        save_weights(files.temporary_folder(folder), tensors, config=config, metadata=facts)
        files.publish(files.temporary_folder(folder), folder, {"kind": "weights"})
        return str(folder)

    return publish


def plan(data: dict) -> str:
    return dry_run(parse(Recipe, data, source="recipe"))


def refusal(data: dict, kind: type[Refusal]) -> str:
    with pytest.raises(kind) as caught:
        plan(data)
    assert not Path(data["run"]).exists()
    return str(caught.value)


# Weights that a stage starts from


def test_weights_of_the_same_tokenizer_and_shape_may_be_started_from(local_recipe, weights):
    local_recipe["stages"][0]["init"] = weights()
    assert "stage mlm: " in plan(local_recipe)


def test_weights_of_another_tokenizer_of_the_same_size_are_refused(local_recipe, weights):
    folder = local_recipe["stages"][0]["init"] = weights({"tokenizer": "0123456789abcdef"})
    said = refusal(local_recipe, BadData)
    assert said.startswith(f"stage 'mlm': the weights {folder} know another tokenizer (fingerprint 0123456789ab) than ")
    assert said.endswith("; preprocess with theirs, or start from other weights")
    assert BadData.exit_code == 3


def test_another_tokenizer_is_named_before_the_size_of_its_vocabulary(local_recipe, weights):
    local_recipe["stages"][0]["init"] = weights({"tokenizer": "0123456789abcdef"}, vocab_size=100)
    assert "know another tokenizer" in refusal(local_recipe, BadData)


def test_weights_that_do_not_say_their_tokenizer_are_refused(local_recipe, weights):
    folder = local_recipe["stages"][0]["init"] = weights({})
    said = refusal(local_recipe, BadData)
    assert said.startswith(f"stage 'mlm': the weights {folder} do not say which tokenizer they know")
    assert said.endswith("; import them again together with their tokenizer")


def test_weights_of_another_shape_are_refused_before_anything_trains(local_recipe, weights):
    local_recipe["stages"][0]["init"] = weights(num_encoder_layers=3)
    said = refusal(local_recipe, BadCheckpoint)
    assert said.startswith("stage 'mlm': the weights to start from have num_encoder_layers 3, the new model 2; set ")


def test_weights_with_another_epsilon_and_a_longer_table_are_started_from_where_the_recipe_says_so(
    local_recipe, weights, train_here
):
    local_recipe["stages"] = local_recipe["stages"][:1]
    local_recipe["stages"][0]["init"] = weights(norm_epsilon=1e-12, vocab_size=2056)
    said = refusal(local_recipe, BadCheckpoint)
    assert "vocab_size 2056, the new model 2048; set vocab_size to 2056" in said
    local_recipe["model"]["vocab_size"] = 2056
    assert "norm_epsilon 1e-12, the new model 1e-05; set norm_epsilon to 1e-12" in refusal(local_recipe, BadCheckpoint)
    local_recipe["model"]["norm_epsilon"] = 1e-12
    train_here(local_recipe)
    config = open_weights(Path(local_recipe["run"]) / "mlm" / "weights").config
    assert (config.norm_epsilon, config.vocab_size) == (1e-12, 2056)


def test_an_encoder_decoder_that_could_not_be_exported_is_refused(local_recipe):
    local_recipe["model"]["norm_epsilon"] = 1e-12
    said = refusal(local_recipe, BadConfig)
    assert said.startswith(
        "stage 'seq2seq_frozen': no family of transformers is such a model, and what is trained is to be exported: "
        "the model's norm_epsilon is 1e-12, and MBart has 1e-05 only"
    )


def test_an_embedding_table_shorter_than_the_tokenizer_is_refused(local_recipe):
    local_recipe["model"]["vocab_size"] = 1000
    assert refusal(local_recipe, BadConfig) == (
        "model: vocab_size is 1000, but the tokenizer has 2048 ids; give it that many or more"
    )


def test_a_later_hand_off_that_cannot_be_is_refused_before_anything_trains(local_recipe, train_here):
    local_recipe["stages"][2]["decoder"] = {"tying": "tied"}
    said = refusal(local_recipe, BadCheckpoint)
    assert said.startswith("stage 'seq2seq': the new model has one matrix for ")
    with pytest.raises(BadCheckpoint, match="stage 'seq2seq': the new model has one matrix for "):
        train_here(local_recipe)
    assert not Path(local_recipe["run"]).exists()


def test_random_embeddings_of_a_decoder_that_is_there_are_refused(local_recipe):
    local_recipe["stages"][2]["decoder"] = {"tying": "tied_to_decoder", "embeddings": "random"}
    said = refusal(local_recipe, BadConfig)
    assert said.startswith("stage 'seq2seq': embeddings: random is how a new decoder starts, and init: brings one; ")


# Engines


def test_fp16_without_a_loss_scale_is_refused_in_any_stage(local_recipe):
    local_recipe["stages"][1]["precision"] = "fp16"
    said = refusal(local_recipe, BadConfig)
    assert said.startswith("stage 'seq2seq_frozen': engine 'local' has no loss scaling for fp16; use precision: bf16")


# Ranks


def test_one_process_plans_for_the_ranks_that_the_recipe_asks_for(recipe_data):
    recipe_data |= {"ranks": 4, "stages": recipe_data["stages"][:1]}
    del recipe_data["stages"][0]["micro_batch"]
    assert "  2 rows per rank and pass" in plan(recipe_data)  # 8 rows a step
    recipe_data["ranks"] = 16
    assert "8 rows per step (batch_tokens 512 / 64) are not divisible by 16 ranks" in refusal(recipe_data, BadConfig)


def test_a_plan_on_the_wrong_number_of_ranks_is_refused_as_a_launch_would_be(recipe_data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "the recipe says ranks: 4, but 2 were started" in refusal({**recipe_data, "ranks": 4}, BadConfig)


def test_a_stage_that_ends_within_its_warm_up_says_so(local_recipe):
    assert "warm-up" not in plan(local_recipe)
    first = local_recipe["stages"][0]
    first["schedule"] = {"lr": 1e-3, "warmup_steps": 2 * first["steps"]}
    said = "  warm-up takes 8 steps: the learning rate ends at 0.0005, below its peak 0.001"
    assert plan(local_recipe).splitlines().count(said) == 1
    recipe = parse(Recipe, local_recipe, source="recipe")
    corpus, tokenizer = open_corpus(recipe)
    prepared = prepare(recipe, recipe.stages[0], corpus, tokenizer.vocabulary, world_size=1)
    assert announcement(prepared, TrainState())[-1] == said


def test_a_head_that_no_export_keeps_is_said_when_its_stage_begins(local_recipe):
    """T5's encoder has none in transformers; it is trained with one all the same, a decoder may follow."""
    assert "the head for masked language modelling" not in plan(local_recipe)
    local_recipe["model"] |= {"positions": "relative", "norm": "rms", "biases": False, "embed_norm": False}
    local_recipe["model"] |= {"scale_attention": False}
    local_recipe["stages"] = local_recipe["stages"][:1]
    said = "  the head for masked language modelling serves training alone: it is exported as a T5EncoderModel, which"
    assert f"{said} has none" in plan(local_recipe).splitlines()
    recipe = parse(Recipe, local_recipe, source="recipe")
    corpus, tokenizer = open_corpus(recipe)
    prepared = prepare(recipe, recipe.stages[0], corpus, tokenizer.vocabulary, world_size=1)
    assert f"{said} has none" in announcement(prepared, TrainState())
