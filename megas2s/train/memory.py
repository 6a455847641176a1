"""Memory of one GPU in training: model states under ZeRO, activations, and what the vocabulary loss holds.

P parameters, of which T train; e bytes per element (2 in bf16 and fp16, 4 in fp32); N ranks.

    parameters   e P                                                         ZeRO-3: e P / N, and gathered ones
    gradients    e T (4 T where they are summed in fp32)                     ZeRO-2, 3: / N
                 both under ZeRO-1 in bf16 with sums in fp32
    optimizer    12 T: fp32 weight and two moments                           ZeRO-1, 2, 3: / N
    update       4 T: the fp32 gradients that the optimizer reads            likewise; 0 where it reads the sum in place

This is what DeepSpeed 0.19 allocates by its source, and for ZeRO-2 with sums in bf16 its own estimate, 2 P + 18 P / N;
its estimate for ZeRO-3 leaves out the low-precision gradients, 2 P / N. The update's share exists while no activations
do, so the peak takes the larger of the two. Offloaded states are counted as host memory per rank, pinned copies and
NVMe buffers aside.

Activations, per token and layer in elements, where all heads together have the width I (D, unless heads have a size of
their own): 4 D + 4 I + 2 F in an encoder layer (inputs of two norms and of two groups of matrices; queries, keys,
values, mixture; both sides of the activation) and 6 D + 6 I + 2 F in a decoder layer, 2 F more where the feed-forward
is gated, F less where a relu's output is all that its backward pass and the next matrix read, with 2 I per source token
for cross-attention's keys and values; a byte and D per dropout, or F inside the feed-forward. A checkpointed layer
keeps D, its input, and one layer at a time is whole. Layers without a backward pass keep nothing. Attention and norms
are the fused kind: no scores are stored, and of a norm its input alone. Relative positions' bias, the framework's own
memory, about 1 GiB, fragmentation, and buffers inside kernels are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from megas2s.engine import EngineSpec, Local
from megas2s.engine.ds_config import offloads_optimizer, read_ds_config, zero_stage
from megas2s.models.config import Activation, ModelConfig
from megas2s.models.loss import FEW_CHUNKS, LOGITS_PER_CHUNK, SOFTMAX_ELEMENTS_ELSEWHERE
from megas2s.models.parts import Span, held
from megas2s.train.flops import Shapes, StepSize, depth, layers_with_backward, vocabulary_matrix
from megas2s.train.ledger import Work
from megas2s.train.placement import spans_of
from megas2s.train.stage import Stage

FP32 = 4
ALLREDUCED = 500_000_000  # elements: DeepSpeed's MEMORY_OPT_ALLREDUCE_SIZE
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharding:
    """How model states are spread over ranks. Buckets and limits count elements, as DeepSpeed's keys do."""

    zero_stage: int = 0
    ranks: int = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False
    fp32_gradients: bool = False  # micro-batches are summed in fp32
    bucket: int = 0  # reduce_bucket_size
    buckets: int = 1  # 2 where communication overlaps with the backward pass
    live_parameters: int = 0  # stage3_max_live_parameters: gathered at once
    reuse: int = 10**9  # stage3_max_reuse_distance: what is used again within it stays gathered
    persistent: int = 0  # stage3_param_persistence_threshold: parameters no larger are never scattered in a step
    sub_group: int = 10**9  # sub_group_size: parameters that ZeRO-3 updates at once

    def by_bf16_optimizer(self, element: int) -> bool:
        """Whether DeepSpeed takes its bf16 optimizer: ZeRO-1 in low precision with sums in fp32."""
        return self.zero_stage == 1 and self.fp32_gradients and element < FP32


def sharding(engine: EngineSpec, *, ranks: int) -> Sharding:
    """How an engine spreads model states; DeepSpeed's own defaults where its file says nothing."""
    if isinstance(engine, Local):
        return Sharding(fp32_gradients=True)
    knobs = read_ds_config(engine.config)
    zero = knobs.get("zero_optimization", {})
    stage = zero_stage(knobs)
    return Sharding(
        zero_stage=stage,
        ranks=ranks,
        offload_optimizer=offloads_optimizer(knobs),
        offload_parameters=zero.get("offload_param", {}).get("device", "none") != "none",
        fp32_gradients=knobs.get("data_types", {}).get("grad_accum_dtype") == "fp32",
        bucket=int(zero.get("reduce_bucket_size", 5e8)),
        buckets=2 if stage == 2 and zero.get("overlap_comm", False) else 1,
        live_parameters=int(zero.get("stage3_max_live_parameters", 1e9)),
        reuse=int(zero.get("stage3_max_reuse_distance", 1e9)),
        persistent=int(zero.get("stage3_param_persistence_threshold", 1e5)),
        sub_group=int(zero.get("sub_group_size", 1e9)),
    )


class States(NamedTuple):
    """Bytes of model states on one GPU, and on the host for one rank."""

    parameters: int
    gradients: int
    optimizer: int
    update: int  # while the optimizer steps
    buffers: int  # gathered parameters and communication buckets
    host: int


class Memory(NamedTuple):
    """Bytes on one GPU. `peak` is what must fit."""

    states: States
    activations: int
    vocabulary: int  # a chunk of logits and the gradients made with it

    @property
    def peak(self) -> int:
        """The larger of the backward pass's start and the optimizer's step."""
        states = self.states
        resting = states.parameters + states.gradients + states.optimizer + states.buffers
        return resting + max(states.update, self.activations + self.vocabulary)


def model_states(shapes: Shapes, spread: Sharding, *, precision: str = "bf16", frozen: Collection[str] = ()) -> States:
    """Parameters, gradients and optimizer state of one rank; see the head of this module."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    every = sum(sizes.values())
    training = sum(size for name, size in sizes.items() if name not in frozen)
    element, stage = ELEMENT_BYTES[precision], spread.zero_stage

    def share(bytes_: int, *, from_stage: int) -> int:
        return -(-bytes_ // spread.ranks) if stage >= from_stage else bytes_

    has_master = precision != "fp32" or stage > 0
    summed_in = FP32 if spread.fp32_gradients else element
    parameters = share(element * every, from_stage=3)
    # DeepSpeed's bf16 optimizer keeps what a micro-batch leaves beside the sums.
    beside = element if spread.by_bf16_optimizer(element) else 0
    gradients = share((summed_in + beside) * training, from_stage=2)
    optimizer = share((2 + has_master) * FP32 * training, from_stage=1)
    # The optimizer reads an fp32 sum where it lies; ZeRO-2 has a flat one only beside low-precision weights.
    read_in_place = spread.fp32_gradients and (stage <= 1 or (stage == 2 and element < FP32))
    update = share(FP32 * training, from_stage=1) if has_master and not read_in_place else 0
    buffers = _buffers(spread, sizes, element, training)
    host = 0
    if spread.offload_optimizer:
        host += optimizer + share(FP32 * training, from_stage=1)
        host += gradients if stage == 3 else 0  # ZeRO-2 keeps them there in fp32 alone
        optimizer = update = 0
        gradients = gradients if stage < 2 or (stage == 2 and read_in_place) else 0  # it adds up in fp32 on the GPU
    elif stage == 3:
        update = min(update, FP32 * spread.sub_group)
    if spread.offload_parameters:
        host, parameters = host + parameters, 0
    return States(parameters, gradients, optimizer, update, buffers, host)


class Kept(NamedTuple):
    """Bytes that a unit (see `models.parts`) leaves for its backward pass, and those that its recomputation takes."""

    stored: int = 0
    recomputed: int = 0


def activations(units: Sequence[Kept], *, in_flight: int = 1) -> int:
    """Bytes of so many micro-batches at the start of a backward pass, in which one layer at a time is whole."""
    return in_flight * sum(unit.stored for unit in units) + max(unit.recomputed for unit in units)


def unit_activations(
    shapes: Shapes,
    size: StepSize,
    *,
    precision: str = "bf16",
    frozen: Collection[str] = (),
    activation: Activation = "gelu",
    dropout: bool = True,
    ffn_dropout: bool = False,
    checkpointing: bool = False,
) -> list[Kept]:
    """What one micro-batch of `size.rows` rows leaves, unit by unit."""
    element, width = ELEMENT_BYTES[precision], shapes["encoder.layers.0.ffn.down.weight"][0]
    units: list[Kept] = []
    for stack, layers in zip(("encoder", "decoder"), layers_with_backward(shapes, frozen=frozen), strict=True):
        deep = depth(shapes, stack)
        if not deep:
            continue
        columns = size.target if stack == "decoder" else size.source
        sublayers = 3 if stack == "decoder" else 2
        heads = shapes[f"{stack}.layers.0.self_attention.q.weight"][0]
        inner = shapes[f"{stack}.layers.0.ffn.up.weight"][0]
        gated = f"{stack}.layers.0.ffn.gate.weight" in shapes
        sides = 4 if gated else 2  # of activation, gate and dropout; a relu needs its output alone
        sides -= activation == "relu" and (gated or not ffn_dropout)
        layer = columns * element * (2 * sublayers * (width + heads) + sides * inner)
        layer += columns * (sublayers * width * dropout + inner * ffn_dropout)
        if stack == "decoder":
            layer += size.source * element * 2 * heads
        state = columns * element * width
        below, above = 0, state  # the output, also a frozen encoder's
        if layers and f"{stack}.norm.weight" in shapes:
            above += state
        if layers == deep:
            below = state * (f"{stack}.embed_norm.weight" in shapes) + columns * width * dropout
        for index in range(deep):
            ends = below * (index == 0) + above * (index == deep - 1)
            moves = index >= deep - layers
            stored = ends + moves * (state if checkpointing else layer)
            units.append(Kept(size.rows * stored, size.rows * layer * (moves and checkpointing)))
    return [*units, Kept()]  # the head's are counted with the loss


def vocabulary_loss(shapes: Shapes, size: StepSize, *, precision: str = "bf16", frozen: Collection[str] = ()) -> int:
    """Bytes of the loss against the vocabulary: a chunk of logits, a slice of softmax, and the gradients made of it."""
    element, matrix = ELEMENT_BYTES[precision], vocabulary_matrix(shapes)
    entries, width = shapes[matrix]
    positions = size.rows * size.predicted
    chunks = max(1, -(-positions * entries // LOGITS_PER_CHUNK))
    chunk = -(-positions // chunks) * entries
    summed_in = FP32 if chunks > FEW_CHUNKS else element
    by_matrix = 0 if matrix in frozen else entries * width * (summed_in + element)  # summed, then scaled
    softmax = min(chunk, SOFTMAX_ELEMENTS_ELSEWHERE)
    return chunk * element + softmax * FP32 + positions * width * element * 2 + by_matrix


def _buffers(spread: Sharding, sizes: dict[str, int], element: int, training: int) -> int:
    """Communication buckets and, under ZeRO-3, whole parameters: the live ones, and the largest with its gradient."""
    total = spread.bucket * spread.buckets * element if spread.zero_stage > 0 else 0
    if spread.by_bf16_optimizer(element):
        total = min(ALLREDUCED, training) * element  # a copy of as many gradients, whatever the file's buckets
    if spread.zero_stage == 3:
        largest = max(sizes.values())
        total += element * (min(max(largest, spread.live_parameters), sum(sizes.values())) + largest)
    return total


def stage_spans(stage: Stage, config: ModelConfig, work: Work) -> tuple[Span, ...]:
    """The spans of a stage's pipeline; none where it has none."""
    recomputed = stage.activation_checkpointing
    return spans_of(stage.engine, config, work.size, frozen=work.frozen, recomputed=recomputed)


def stage_memory(stage: Stage, config: ModelConfig, work: Work, *, gpus: int) -> list[Memory]:
    """Bytes on one GPU in a stage; in a pipeline, of each of its parts.

    The part k of p holds the activations of p - k micro-batches when all are full (one forward, one backward).
    """
    ranks = stage.data_ranks(gpus)
    rows = stage.micro_batch_rows(ranks)
    size = work.size._replace(rows=rows * work.views)
    spread = sharding(stage.engine, ranks=ranks)
    units = unit_activations(
        work.shapes,
        size,
        precision=stage.precision,
        frozen=work.frozen,
        activation=config.activation,
        dropout=config.dropout > 0,
        ffn_dropout=config.ffn_dropout > 0,
        checkpointing=stage.activation_checkpointing,
    )
    spans = stage_spans(stage, config, work) or (Span(0, len(units)),)
    found = []
    for number, span in enumerate(spans):
        shapes = {name: work.shapes[name] for name in held(config, span)}
        states = model_states(shapes, spread, precision=stage.precision, frozen=work.frozen)
        waiting = min(len(spans) - number, stage.micro_batches(ranks))
        kept = activations(units[span.first : span.stop], in_flight=waiting)
        last = span.stop == len(units)
        loss = vocabulary_loss(work.shapes, size, precision=stage.precision, frozen=work.frozen) if last else 0
        found.append(Memory(states, kept, loss))
    return found
