import dataclasses
import math

import pytest
import torch

from megas2s.engine import Local, Pipe, Zero
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import freeze, frozen_names
from megas2s.models.parameters import parameter_shapes
from megas2s.models.parts import held
from megas2s.models.presets import preset
from megas2s.models.transformer import build
from megas2s.objectives.mlm import MLM
from megas2s.tokenizer.vocab import stand_in
from megas2s.train.flops import StepSize
from megas2s.train.ledger import work_of
from megas2s.train.memory import (
    Memory,
    Sharding,
    States,
    activations,
    model_states,
    sharding,
    stage_memory,
    stage_spans,
    unit_activations,
    vocabulary_loss,
)
from megas2s.train.schedule import Schedule
from megas2s.train.stage import Stage

BASE = {"vocab_size": 96, "hidden_size": 64, "num_heads": 4, "ffn_size": 256, "max_positions": 64, "dropout": 0.0}
ENCODER = ModelConfig(**BASE, num_encoder_layers=3)
SEQ2SEQ = ModelConfig(**BASE, num_encoder_layers=3, num_decoder_layers=2, tying="tied_to_decoder")
BOTTOM = ["encoder.embed.*", "encoder.positions.*", "encoder.embed_norm.*", "encoder.layers.0.*"]


def test_model_states_by_hand():
    shapes = {"a.weight": (1000, 2), "b.weight": (500, 2)}  # 3000 parameters, 1000 of them frozen
    frozen = {"b.weight"}
    alone = model_states(shapes, Sharding(), frozen=frozen)
    assert alone == States(parameters=6000, gradients=4000, optimizer=24000, update=8000, buffers=0, host=0)
    zero2 = model_states(shapes, Sharding(zero_stage=2, ranks=4), frozen=frozen)
    assert zero2 == States(parameters=6000, gradients=1000, optimizer=6000, update=2000, buffers=0, host=0)
    # ZeRO-3 gathers its largest matrix, 2000, and makes that one's gradient: 2 * 2000 * 2 bytes.
    zero3 = model_states(shapes, Sharding(zero_stage=3, ranks=4), frozen=frozen)
    assert zero3 == States(parameters=1500, gradients=1000, optimizer=6000, update=2000, buffers=8000, host=0)
    plain = model_states(shapes, Sharding(), precision="fp32", frozen=frozen)
    assert plain == States(parameters=12000, gradients=8000, optimizer=16000, update=0, buffers=0, host=0)
    summed = model_states(shapes, Sharding(zero_stage=1, ranks=4, fp32_gradients=True, bucket=10), frozen=frozen)
    # DeepSpeed's bf16 optimizer: gradients of a micro-batch, their sums, and a copy that is on its way.
    assert summed == States(parameters=6000, gradients=12000, optimizer=6000, update=0, buffers=4000, host=0)


@pytest.mark.parametrize(
    ("stage", "offload", "gradients", "update", "host"),
    [
        (2, False, 2000, 0, 0),  # one flat sum, which the optimizer reads
        (2, True, 2000, 0, 8000),  # the sum stays on the GPU; moments, masters and the copy for CPU Adam do not
        (3, False, 2000, 2000, 0),
        (3, True, 0, 0, 10000),  # the sum too
    ],
)
def test_sums_in_fp32_by_hand(stage, offload, gradients, update, host):
    shapes = {"a.weight": (1000, 2), "b.weight": (500, 2)}
    spread = Sharding(zero_stage=stage, ranks=4, fp32_gradients=True, offload_optimizer=offload)
    states = model_states(shapes, spread, frozen={"b.weight"})
    assert (states.gradients, states.update, states.host) == (gradients, update, host)


@pytest.mark.parametrize("ranks", [1, 4, 64])
@pytest.mark.parametrize("offload", [False, True])
def test_zero_2_agrees_with_deepspeeds_estimate(ranks, offload):
    from deepspeed.runtime.zero import stage_1_and_2

    shapes = {"a.weight": (2**20, 24)}
    states = model_states(shapes, Sharding(zero_stage=2, ranks=ranks, offload_optimizer=offload))
    host, gpu = stage_1_and_2.estimate_zero2_model_states_mem_needs(
        2**20 * 24, num_gpus_per_node=ranks, cpu_offload=offload, additional_buffer_factor=1
    )
    assert states.parameters + states.gradients + states.optimizer + states.update == gpu
    if offload and ranks <= 4:  # with more ranks its estimate is of the moment at which each loads the whole model
        assert states.host * ranks == host


@pytest.mark.parametrize("ranks", [1, 4, 64])
@pytest.mark.parametrize(("optimizer", "parameters"), [(False, False), (True, False), (True, True)])
def test_zero_3_agrees_with_deepspeeds_estimate_but_for_low_precision_gradients(ranks, optimizer, parameters):
    from deepspeed.runtime.zero import stage3

    shapes = {"a.weight": (2**20, 24), "b.weight": (2**20, 8)}
    total, largest = 2**25, 24 * 2**20
    sharding = Sharding(zero_stage=3, ranks=ranks, offload_optimizer=optimizer, offload_parameters=parameters)
    states = model_states(shapes, sharding)
    host, gpu, _ = stage3.estimate_zero3_model_states_mem_needs(
        total,
        largest,
        num_gpus_per_node=ranks,
        cpu_offload=optimizer,
        cpu_offload_params=parameters,
        additional_buffer_factor=1,
    )
    left_out = 2 * total // ranks
    on_gpu = states.parameters + states.gradients + states.optimizer + states.update + states.buffers
    if optimizer:
        assert (on_gpu, states.host * ranks) == (gpu, host + left_out * ranks)
    else:
        assert (on_gpu, states.host) == (gpu + left_out, 0)


def test_sharding_is_read_from_the_engines_own_file(tmp_path):
    path = tmp_path / "zero2.json"
    path.write_text('{"zero_optimization": {"stage": 2, "overlap_comm": true, "reduce_bucket_size": 2e8}}')
    assert sharding(Zero(config=str(path)), ranks=8) == Sharding(
        zero_stage=2, ranks=8, bucket=200_000_000, buckets=2, live_parameters=10**9, persistent=100_000
    )
    path.write_text(
        '{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"},'
        ' "offload_param": {"device": "nvme"}, "stage3_max_live_parameters": 7},'
        ' "data_types": {"grad_accum_dtype": "fp32"}}'
    )
    assert sharding(Zero(config=str(path)), ranks=8) == Sharding(
        zero_stage=3,
        ranks=8,
        offload_optimizer=True,
        offload_parameters=True,
        fp32_gradients=True,
        bucket=500_000_000,
        live_parameters=7,
        persistent=100_000,
    )
    assert sharding(Local(), ranks=1) == Sharding(fp32_gradients=True)


def test_the_peak_takes_activations_or_the_update_never_both():
    states = States(parameters=10, gradients=20, optimizer=30, update=40, buffers=50, host=1000)
    assert Memory(states, activations=15, vocabulary=10).peak == 10 + 20 + 30 + 50 + 40
    assert Memory(states, activations=45, vocabulary=10).peak == 10 + 20 + 30 + 50 + 45 + 10


def stored(config: ModelConfig, patterns: list[str], size: StepSize, *, checkpointing: bool) -> int:
    """Bytes of activations that autograd holds when the forward pass of the real model ends."""
    model = build(config)
    freeze(model, patterns)
    model.checkpoint_layers(checkpointing)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive, found = [], {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in own:
            alive.append(tensor)
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = {"input_ids": torch.randint(96, (size.rows, size.source))}
    if config.is_seq2seq:
        batch["decoder_input_ids"] = torch.randint(96, (size.rows, size.target))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(batch)
        note(output.decoder_hidden if config.is_seq2seq else output.encoder_hidden)
    return sum(found.values())


POST = dataclasses.replace(SEQ2SEQ, norm_position="post")
# As T5 11B, but for what a CPU's kernels keep beyond a GPU's: norms without a mean, and scores under a bias.
WIDE = dataclasses.replace(SEQ2SEQ, head_size=40, activation="relu", biases=False, embed_norm=False)
NARROW = dataclasses.replace(SEQ2SEQ, head_size=6, gated=True)
WIDE_ENCODER = dataclasses.replace(ENCODER, head_size=40, activation="relu", gated=True, norm_position="post")
EVERY = [(ENCODER, []), (ENCODER, BOTTOM), (WIDE_ENCODER, []), (WIDE_ENCODER, BOTTOM)]
EVERY += [(config, patterns) for config in (SEQ2SEQ, POST, WIDE, NARROW) for patterns in ([], ["encoder.*"])]


@pytest.mark.parametrize(("config", "patterns"), EVERY)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(config, patterns, checkpointing):
    size = StepSize(rows=4, source=40, target=32 if config.is_seq2seq else 0, predicted=6)
    shapes, frozen = parameter_shapes(config), frozen_names(config, patterns)
    how = {"precision": "fp32", "dropout": False, "activation": config.activation, "checkpointing": checkpointing}
    found = activations(unit_activations(shapes, size, frozen=frozen, **how))
    if checkpointing:  # one layer is whole while it is recomputed, which is after the forward pass
        heads = config.num_heads * config.head_width
        inner = 256 * (2 + 2 * config.gated - (config.activation == "relu"))
        decoder = 4 * 4 * (32 * (6 * 64 + 6 * heads + inner) + 40 * 2 * heads) if config.is_seq2seq else 0
        encoder = 4 * 4 * 40 * (4 * 64 + 4 * heads + inner) if patterns != ["encoder.*"] else 0
        found -= max(encoder, decoder)
    assert found == pytest.approx(stored(config, patterns, size, checkpointing=checkpointing), rel=0.03)


def test_the_activations_of_t5_11b_by_hand():
    # Width 1024, 128 heads of 128, 65536 between the matrices of its feed-forward; relu, and dropout everywhere.
    shapes = parameter_shapes(dataclasses.replace(preset("t5_11b", vocab_size=32128), num_encoder_layers=1))
    size = StepSize(rows=1, source=100, target=0, predicted=1)
    longer = size._replace(source=101)
    how = {"activation": "relu", "frozen": {name for name in shapes if name.startswith("decoder.")}}
    how |= {"dropout": True, "ffn_dropout": True}
    grown = activations(unit_activations(shapes, longer, **how)) - activations(unit_activations(shapes, size, **how))
    layer = 2 * (4 * 1024 + 4 * 16384 + 2 * 65536) + 2 * 1024 + 65536
    cross = 24 * 2 * 2 * 16384  # keys and values of the frozen decoder, through which the encoder's gradient comes
    assert grown == layer + cross + 2 * 2 * 1024 + 1024  # and the last norm, the output, dropout on the embedding


def test_a_frozen_encoder_keeps_only_its_output():
    size = StepSize(rows=2, source=40, target=32, predicted=32)
    shapes = parameter_shapes(SEQ2SEQ)
    longer = size._replace(source=50)
    frozen = frozen_names(SEQ2SEQ, ["encoder.*"])
    grown, before = (activations(unit_activations(shapes, each, frozen=frozen)) for each in (longer, size))
    # 20 more source tokens of 2 bytes and width 64: the encoder's output, and two layers' keys and values.
    assert grown - before == 20 * 2 * 64 * (1 + 2 * 2)


def test_the_vocabulary_loss_by_hand():
    # 2 rows predict 3 positions each: 6 * 96 logits in bf16 and their softmax in fp32, the states and their gradient,
    # the matrix's gradient and its scaled copy. One chunk, so that gradient is in bf16.
    shapes, size = parameter_shapes(ENCODER), StepSize(rows=2, source=9, target=0, predicted=3)
    assert vocabulary_loss(shapes, size) == 6 * 96 * (2 + 4) + 6 * 64 * 2 * 2 + 96 * 64 * (2 + 2)
    # 2000 positions of 250 112 entries are 4 chunks of at most 2^27 elements: 500 positions, and still sums in bf16.
    # The softmax of a chunk is made in slices of 2^26 elements.
    wide = {**shapes, "encoder.embed.weight": (250_112, 64)}
    found = vocabulary_loss(wide, StepSize(rows=20, source=200, target=0, predicted=100))
    assert found == 500 * 250_112 * 2 + 2**26 * 4 + 2000 * 64 * 2 * 2 + 250_112 * 64 * (2 + 2)
    # 2400 positions are 5 chunks of 480, and a sum over more than 4 is kept in fp32.
    found = vocabulary_loss(wide, StepSize(rows=24, source=200, target=0, predicted=100))
    assert found == 480 * 250_112 * 2 + 2**26 * 4 + 2400 * 64 * 2 * 2 + 250_112 * 64 * (4 + 2)


def test_parts_of_a_pipeline_hold_the_micro_batches_that_are_under_way():
    """The part k of p has sent p - k of them on and waits for their gradients; the last one has one."""
    config = dataclasses.replace(SEQ2SEQ, num_encoder_layers=8, num_decoder_layers=0, tying="tied", vocab_size=512)
    vocabulary = stand_in(512)
    config = dataclasses.replace(config, pad_id=vocabulary.pad)
    stage = Stage(
        name="s",
        objective=MLM(),
        length=64,
        batch_tokens=64 * 32,
        micro_batch=2,
        steps=1,
        schedule=Schedule(lr=1e-3),
        engine=Pipe(stages=4),
    )
    work = work_of(stage, config, vocabulary)
    parts = stage_memory(stage, config, work, gpus=4)
    spans = stage_spans(stage, config, work)
    units = unit_activations(
        work.shapes,
        work.size._replace(rows=2),
        precision=stage.precision,
        activation=config.activation,
        dropout=config.dropout > 0,
    )
    for number, (span, part) in enumerate(zip(spans, parts, strict=True)):
        one = sum(unit.stored for unit in units[span.first : span.stop])
        assert part.activations == (4 - number) * one
        numbers = sum(math.prod(work.shapes[name]) for name in held(config, span))
        assert part.states.parameters == 2 * numbers
        assert (part.vocabulary > 0) == (number == 3)
    few = stage_memory(dataclasses.replace(stage, batch_tokens=64 * 4), config, work, gpus=4)
    assert few[0].activations == parts[0].activations / 2  # two micro-batches are all there are
