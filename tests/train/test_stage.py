"""A stage's rules: what it is made of, what follows from it, and a sentence for everything that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from megas2s.engine import Local, Zero
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.objectives.base import RowLengths
from megas2s.recipe import Recipe
from megas2s.spec import parse, plain
from megas2s.train.assemble import check_positions, init_folder, stage_frozen
from megas2s.train.schedule import Schedule
from megas2s.train.stage import Checkpoints, Log, Stage

MLM = {
    "name": "mlm",
    "objective": {"name": "mlm"},
    "length": 128,
    "batch_tokens": 4096,
    "steps": 10,
    "schedule": {"lr": 1e-3},
}
SEQ2SEQ = MLM | {"objective": {"name": "denoising"}, "init": "mlm", "decoder": {"tying": "untied"}}
MODEL = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    num_heads=2,
    ffn_size=32,
    num_encoder_layers=2,
    num_decoder_layers=1,
    max_positions=128,
    tying="tied_to_decoder",
)


def stage(data: dict = MLM, **changes) -> Stage:
    """A stage from plain data; a change to None leaves the key out."""
    values = {key: value for key, value in (data | changes).items() if value is not None}
    return parse(Stage, values, source="stage")


def recipe(*stages: dict) -> Recipe:
    data = {"run": "run", "corpus": "corpus", "model": {"preset": "tiny"}, "stages": list(stages)}
    return parse(Recipe, data, source="recipe")


def refusal(data: dict = MLM, **changes) -> str:
    with pytest.raises(BadConfig) as caught:
        stage(data, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What it is and what follows


def test_what_a_recipe_leaves_out_has_the_documented_default():
    made = stage()
    assert (made.init, made.part, made.decoder, made.freeze, made.frozen_dropout) == (None, "all", None, (), False)
    assert (made.precision, made.engine) == ("bf16", Zero(config="ds_configs/zero1.json"))
    assert (made.micro_batch, made.activation_checkpointing, made.compile) == (None, False, False)
    assert stage(length=None, batch_tokens=1024).length == 512
    assert stage(SEQ2SEQ, decoder={}).decoder == stage(SEQ2SEQ, decoder={"tying": "tied"}).decoder
    assert stage(SEQ2SEQ).decoder.embeddings is None


def test_a_stage_is_the_same_after_being_written_down():
    made = stage(SEQ2SEQ, freeze=["encoder.*"], engine={"name": "local"}, tokens=5000, steps=None)
    assert made.engine == Local()
    assert parse(Stage, plain(Stage, made), source="stage") == made


def test_rows_are_as_long_as_the_longer_of_source_and_target():
    assert (stage().row_tokens, stage().rows, stage().target) == (128, 32, 128)
    wide = stage(SEQ2SEQ, target_length=256)
    assert (wide.row_tokens, wide.rows, wide.target) == (256, 16, 256)
    narrow = stage(SEQ2SEQ, target_length=64)
    assert (narrow.row_tokens, narrow.rows, narrow.target) == (128, 32, 64)


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (4096, 1), (4097, 2), (40960, 10)])
def test_tokens_end_with_the_first_step_that_reaches_them(tokens: int, steps: int):
    assert stage(steps=None, tokens=tokens).total_steps == steps
    assert stage().total_steps == 10


def test_a_micro_batch_is_all_rows_of_a_rank_unless_it_says_less():
    assert [stage().micro_batch_rows(ranks) for ranks in (1, 2, 32)] == [32, 16, 1]
    assert stage(micro_batch=4).micro_batch_rows(8) == 4


@pytest.mark.parametrize("name", ["mlm", "0", "seq2seq.2-b_C"])
def test_a_name_is_any_plain_folder_s_name(name: str):
    assert stage(name=name).name == name


def test_weights_to_start_from_are_an_earlier_stage_s_or_a_folder():
    assert init_folder(None, Path("run"), ["mlm"]) is None
    assert init_folder("mlm", Path("run"), ["mlm"]) == Path("run/mlm/weights")
    assert init_folder("other/weights", Path("run"), ["mlm"]) == Path("other/weights")


# What cannot be


@pytest.mark.parametrize("changes", [{"tokens": 5000}, {"steps": None}], ids=["both", "neither"])
def test_either_steps_or_tokens_say_how_long_it_is(changes: dict):
    assert refusal(**changes) == "stage: state either steps or tokens"


@pytest.mark.parametrize("key", ["length", "target_length", "batch_tokens", "micro_batch", "steps", "tokens"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_one_is_refused(key: str, value: int):
    changes = {key: value} | ({"steps": None} if key == "tokens" else {})
    assert refusal(**changes) == f"stage: {key} must be at least 1, got {value}"


@pytest.mark.parametrize("key", ["name", "objective", "batch_tokens", "schedule"])
def test_what_has_no_default_is_asked_for(key: str):
    assert refusal(**{key: None}) == f"stage: {key}: this key is required and absent"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lenght": 64}, "stage: lenght: unknown key; did you mean 'length'?"),
        ({"schedule": {"lr": 1e-3, "warmup": 5}}, "stage: schedule.warmup: unknown key; did you mean 'warmup_steps'?"),
        ({"objective": {"name": "mlm", "span": 3}}, "stage: objective.mlm.span: unknown key; known: "),
        ({"objective": {"name": "mln"}}, "stage: objective: input tag 'mln' found using 'name' does not match any"),
        ({"engine": {"name": "fsdp"}}, "stage: engine: input tag 'fsdp' found using 'name' does not match any"),
        ({"precision": "fp8"}, "stage: precision: input should be 'bf16', 'fp16' or 'fp32', found 'fp8'"),
        ({"part": "decoder"}, "stage: part: input should be 'all' or 'encoder', found 'decoder'"),
        ({"length": 12.5}, "stage: length: input should be a valid integer, got a number with a fractional part"),
        ({"freeze": "encoder.*"}, "stage: freeze: input should be a valid tuple, found 'encoder.*'"),
        ({"schedule": {"lr": 0}}, "stage: schedule: lr must be positive, got 0"),
        ({"optimizer": {"beta2": 1.0}}, "stage: optimizer: beta2 must lie in [0, 1), got 1.0"),
        ({"name": "a/b"}, "a stage's name is a folder's name (letters, digits, . _ -), found 'a/b'"),
        ({"name": ".."}, "a stage's name is a folder's name (letters, digits, . _ -), found '..'"),
        ({"name": "tokenizer"}, "a run keeps something else in its folder 'tokenizer'; name the stage otherwise"),
        ({"name": ""}, "a stage's name is a folder's name (letters, digits, . _ -), found ''"),
    ],
)
def test_a_mistake_is_named_with_its_path(changes: dict, said: str):
    assert said in refusal(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_tokens": 4100}, "batch_tokens 4100 is not a multiple of the row length 128"),
        ({"target_length": 192}, "batch_tokens 4096 is not a multiple of the row length 192"),
    ],
)
def test_a_batch_that_is_no_whole_number_of_rows_is_refused(changes: dict, said: str):
    assert refusal(SEQ2SEQ, **changes) == f"stage: {said}"


@pytest.mark.parametrize(
    ("micro_batch", "ranks", "said"),
    [
        (None, 3, r"stage 'mlm': 32 rows per step \(batch_tokens 4096 / 128\) are not divisible by 3 ranks; change "),
        (5, 2, "stage 'mlm': 16 rows per rank and step are not divisible by micro_batch 5; change batch_tokens or mi"),
        (64, 1, "stage 'mlm': 32 rows per rank and step are not divisible by micro_batch 64; change batch_tokens or"),
    ],
)
def test_rows_that_ranks_and_micro_batches_cannot_share_are_refused(micro_batch, ranks: int, said: str):
    with pytest.raises(BadConfig, match=said):
        stage(micro_batch=micro_batch).micro_batch_rows(ranks)


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (SEQ2SEQ, {"part": "encoder", "decoder": None}, "part: encoder starts a new decoder here; say how under decod"),
        (MLM, {"part": "encoder"}, "part: encoder is a part of init:, which is absent; name an earlier stage or"),
        (SEQ2SEQ, {"part": "encoder", "init": None}, "part: encoder is a part of init:, which is absent; name an ear"),
        (MLM, {"decoder": {}}, "objective 'mlm' trains an encoder, which has no decoder:"),
        (
            SEQ2SEQ,
            {"decoder": {"tying": "tied", "embeddings": "random"}},
            "tying: tied has one matrix, the one that init: brings, so embeddings cannot be random; say tied_to",
        ),
        (
            SEQ2SEQ,
            {"init": None, "decoder": {"tying": "untied", "embeddings": "copied"}},
            "decoder.embeddings: copied copies what init: brings, which is absent; leave it out",
        ),
        (
            SEQ2SEQ,
            {"decoder": {"tying": "half"}},
            "decoder.tying: input should be 'tied', 'tied_to_decoder', 'untied_he",
        ),
    ],
)
def test_a_hand_off_that_says_two_things_is_refused(data: dict, changes: dict, said: str):
    assert said in refusal(data, **changes)


def test_a_model_from_scratch_may_say_that_its_embeddings_are_random():
    assert stage(SEQ2SEQ, init=None, decoder={"tying": "tied", "embeddings": "random"}).decoder.tying == "tied"
    quiet = stage(SEQ2SEQ, init=None, decoder={"tying": "tied"})
    assert parse(Stage, plain(Stage, quiet), source="stage") == quiet


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("mml", "stage 'seq2seq': init 'mml' is neither an earlier stage nor a folder of weights; did you mean 'mlm'?"),
        ("seq2seq", "stage 'seq2seq' starts from 'seq2seq', which does not come before it"),
        ("last", "stage 'seq2seq' starts from 'last', which does not come before it"),
    ],
)
def test_an_init_that_is_not_there_before_the_stage_is_refused(init: str, said: str):
    with pytest.raises(BadConfig) as caught:
        recipe(MLM, SEQ2SEQ | {"name": "seq2seq", "init": init}, MLM | {"name": "last"})
    assert str(caught.value) == f"recipe: {said}"


def test_an_init_of_the_first_stage_can_only_be_a_folder():
    with pytest.raises(BadConfig, match=r"init 'mlm0' is neither an earlier stage nor a folder of weights; give a fol"):
        recipe(MLM | {"init": "mlm0"})


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(BadConfig, match="two stages are named 'mlm'"):
        recipe(MLM, MLM)


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (["encodr.*"], "stage 'mlm': freeze: 'encodr.*' matches no parameter; did you mean 'encoder.*'?"),
        (["encoder.*", "mlm.*"], "stage 'mlm': freeze: 'mlm.*' matches no parameter; "),
        (["*"], "stage 'mlm': freeze: the patterns freeze every parameter, nothing is left to train; freeze fewer"),
        (["encoder.layers.*"], "stage 'mlm': freeze: all layers of the encoder are frozen but encoder.embed.weight, "),
    ],
)
def test_what_cannot_be_frozen_is_refused_in_the_stage_s_name(freeze: list[str], said: str):
    with pytest.raises(BadConfig) as caught:
        stage_frozen(stage(SEQ2SEQ, freeze=freeze), MODEL)
    assert str(caught.value).startswith(said)


def test_rows_longer_than_the_positions_are_refused_on_either_side():
    check_positions(stage(), RowLengths(128, 128, True), MODEL)
    for columns in (RowLengths(129, 0, True), RowLengths(100, 129, True)):
        with pytest.raises(BadConfig, match=r"stage 'mlm': rows of 129 tokens exceed the model's 128 positions; short"):
            check_positions(stage(), columns, MODEL)


def test_at_least_one_checkpoint_stays():
    assert Checkpoints(keep_last=1).keep_every == 0
    with pytest.raises(ValueError, match="keep_last must be at least 1, got 0"):
        Checkpoints(keep_last=0)


@pytest.mark.parametrize("key", ["every", "evaluate_every", "heldout_rows", "samples_every"])
def test_zero_turns_a_report_off_and_less_is_refused(key: str):
    assert getattr(Log(**{key: 0}), key) == 0
    with pytest.raises(ValueError, match=f"{key} must be at least 0, got -1"):
        Log(**{key: -1})
    with pytest.raises(ValueError, match="every must be at least 0, got -2"):
        Checkpoints(every=-2)


def test_values_are_never_written_to_again():
    with pytest.raises(AttributeError):
        stage().steps = 5
    with pytest.raises(AttributeError):
        Schedule(lr=1.0).lr = 2.0
