"""What the engine tests run, on one process or on real ranks: twenty clipped steps of a tiny encoder-decoder.

    python program.py OUT local fp32              deepspeed --num_gpus 2 program.py OUT ds_configs/zero1.json fp32 ...

Writes losses, gradient norms, the first step's gradients and a hash of the last weights for each (engine, precision,
variant). Engines are built one after another in one process.
"""

import dataclasses
import gc
import hashlib
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from megas2s import dist, files
from megas2s.engine import Local, Pipe, Zero, join, make_engine, pipe_stages
from megas2s.engine.base import MOMENTS, Setup
from megas2s.engine.optim import AdamW
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import freeze, frozen_names
from megas2s.models.parameters import ALL
from megas2s.models.parts import Cut, construct_part
from megas2s.models.transformer import build, construct
from megas2s.objectives.base import Part, Plain
from megas2s.rng import torch_seed
from megas2s.train.flops import StepSize
from megas2s.train.placement import spans_of
from megas2s.train.samples import reconstructions

STEPS, RESUME_AT, ROWS, MICRO_BATCH = 20, 8, 8, 2
CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=32,
    num_heads=4,
    ffn_size=64,
    num_encoder_layers=2,
    num_decoder_layers=2,
    max_positions=32,
    dropout=0.0,
    tying="tied_to_decoder",
)


class Reconstruction(Plain):
    """The loss of `labels`, weighed twice so that the weighting is exercised; rows differ in their counts."""

    def counts(self, batch):
        real = (batch["labels"] != -100).sum(1).float()
        return {"half": real, "other": real}

    def loss(self, output, batch, step=None):
        hidden = output.decoder_hidden
        rows, columns, width = hidden.shape
        found = output.decoder_vocabulary_loss(hidden.reshape(-1, width), batch["labels"].reshape(-1))
        per_row = found.each.view(rows, columns).sum(1)
        return {"half": Part(found.total, 0.5, per_row), "other": Part(found.total, 0.25, per_row)}


def starting_weights(config: ModelConfig = CONFIG) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {name: value.detach() + 0.02 * torch.randn(value.shape) for name, value in build(config).named_parameters()}


def batches(step: int) -> list[dict[str, Tensor]]:
    """This rank's micro-batches; the rows of a step are the same whatever the ranks."""
    rank, world_size, _ = dist.data_place()
    draw = torch.Generator().manual_seed(step)
    source = torch.randint(5, 256, (ROWS, 16), generator=draw)
    labels = torch.randint(5, 256, (ROWS, 12), generator=draw)
    labels[0, 5:] = -100
    found = []
    for index in range(ROWS // world_size // MICRO_BATCH):
        first = (index * world_size + rank) * MICRO_BATCH
        rows = slice(first, first + MICRO_BATCH)
        found.append(
            {
                "input_ids": source[rows],
                "attention_mask": torch.ones_like(source[rows]),
                "decoder_input_ids": labels[rows].clamp_min(0),
                "labels": labels[rows],
                "language": torch.arange(first, first + MICRO_BATCH) % 2,
            }
        )
    return found


class EncoderWatch:
    """In training, whether the encoder's modules are in training mode, and whether the decoder reads a graph."""

    def __init__(self) -> None:
        self.seen: set[tuple[bool, bool]] = set()

    def on(self, model) -> None:
        def note(decoder, arguments) -> None:
            if model.training:
                modes = {module.training for module in model.encoder.modules()}
                self.seen |= {(mode, arguments[1].requires_grad) for mode in modes}

        if hasattr(model, "decoder"):
            model.decoder.register_forward_pre_hook(note)


def held(tensors):
    """`Values` of tensors in memory."""
    return lambda name, rows=ALL: tensors[name][rows]


def setup(
    spec: Local | Zero | Pipe,
    precision: str,
    frozen: tuple[str, ...],
    initial,
    *,
    config: ModelConfig = CONFIG,
    watch: EncoderWatch | None = None,
    recomputed: bool = False,
    scaled: bool = False,
) -> Setup:
    names = frozenset(frozen_names(config, frozen))
    size = StepSize(rows=ROWS, source=16, target=12, predicted=12)
    spans = spans_of(spec, config, size, frozen=names, recomputed=recomputed)

    def built(span=None):
        model = construct(config) if span is None else construct_part(config, span)
        freeze(model, frozen)
        model.checkpoint_layers(recomputed)
        if watch is not None:
            watch.on(model)
        return model

    return Setup(
        build=built,
        initial=initial,
        losses=Reconstruction(),
        optimizer=AdamW(grad_clip=0.1, weight_decay=0.1, scale_by_rms=scaled),
        precision=precision,
        micro_batch=MICRO_BATCH,
        micro_batches=ROWS // dist.data_place().world_size // MICRO_BATCH,
        languages=2,
        dropout_seed=lambda step, index, rank: torch_seed(1, "dropout", step, index, rank),
        cut=Cut(config, names, spans)
        if (spans := spans_of(spec, config, size, frozen=names, recomputed=recomputed))
        else None,
    )


def unlike(engine) -> list[str]:
    """Parameters that a part of a pipeline computes with and that are not the ones it trains: copies gone astray."""
    values = dict(engine.values())
    return [
        name
        for name, parameter in engine._parameters.items()
        if name in values and not torch.equal(parameter.detach(), values[name].to(parameter.dtype))
    ]


class Trace:
    """What one training leaves to compare."""

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.skipped = 0
        self.gradients: dict[str, Tensor] = {}

    def run(self, engine, first: int, stop: int) -> None:
        for step in range(first, stop):
            result = engine.train_step(batches(step), step=step, lr=self.lr)
            sums = dist.sum_over_ranks(result.sums)[0].sum(0)
            self.losses.append(float(sums[0] / sums[1]))
            self.norms.append(result.grad_norm)
            self.skipped += result.skipped
            if step == 0:  # Adam's first moment is (1 - beta1) times the clipped gradient
                self.gradients = {
                    name.removeprefix("exp_avg."): value.clone() / 0.1
                    for name, value in engine.moments()
                    if name.startswith("exp_avg.")
                }


def train(
    spec: Local | Zero | Pipe,
    precision: str,
    *,
    frozen: tuple[str, ...] = (),
    resume: bool = False,
    trial: bool = False,
    steps: int = STEPS,
    recomputed: bool = False,
    scaled: bool = False,
    config: ModelConfig = CONFIG,
) -> dict:
    start = starting_weights(config)
    watch = EncoderWatch()
    choices = {"config": config, "watch": watch, "recomputed": recomputed, "scaled": scaled}
    engine = make_engine(spec, setup(spec, precision, frozen, held(start), **choices))
    if trial:
        untouched = engine.counters()
        engine.train_step(batches(0), step=0, lr=0.0)
        engine.load_moments(None, untouched)
    astray: list[str] = []
    trace = Trace(2e-2 if scaled else 1e-3)
    trace.run(engine, 0, min(RESUME_AT, steps // 2) if resume else steps)
    if resume:
        values = {name: value.clone() for name, value in engine.values()}
        moments = {name: value.clone() for name, value in engine.moments()}
        counters = engine.counters()
        engine.close()
        begun = {**start, **values}  # only rank 0 is given frozen values
        engine = make_engine(spec, setup(spec, precision, frozen, held(begun), **choices))
        engine.load_moments(held(moments), counters)
        astray = unlike(engine) if isinstance(spec, Pipe) else []
        trace.run(engine, min(RESUME_AT, steps // 2), steps)
    heldout = dist.sum_over_ranks(engine.evaluate(batches(99)))[0].sum(0)
    last = {name: value.clone() for name, value in engine.values()}
    moving = {name.split(".", 1)[1] for name, _ in engine.moments()}
    result = {
        "losses": trace.losses,
        "norms": trace.norms,
        "skipped": trace.skipped,
        "heldout": float(heldout[0] / heldout[1]),
        "gradients": {name: value.flatten().tolist() for name, value in trace.gradients.items()},
        "moved": sorted(name for name, value in last.items() if not torch.equal(value, start[name])),
        "with_moments": sorted(moving),
        "counters": engine.counters(),
        "unlike": dist.gather_texts(" ".join(astray + (unlike(engine) if isinstance(spec, Pipe) else []))),
        "given": [int(text) for text in dist.gather_texts(str(len(last)))],
        "encoder": dist.gather_texts(str(sorted(watch.seen))),
        "hosts": dist.gather_texts(f"rank {dist.place().rank} é"),
        "shared_memory": [path.name for path in Path("/dev/shm").glob(f"*_{os.environ.get('MASTER_PORT')}_*")],
        "hash": hashlib.sha256(b"".join(last[name].cpu().numpy().tobytes() for name in sorted(last))).hexdigest(),
    }
    engine.close()
    gc.collect()
    return result


def show(spec: Local | Zero | Pipe, precision: str) -> dict:
    """Samples where rank 0 holds rows of three languages and others of one; the head is too large to stay gathered."""
    config = dataclasses.replace(CONFIG, vocab_size=4096)
    start = starting_weights(config)
    engine = make_engine(spec, setup(spec, precision, (), held(start), config=config))
    draw = torch.Generator().manual_seed(dist.data_place().rank)
    labels = torch.randint(5, 4096, (3, 12), generator=draw)
    heldout = {
        "input_ids": torch.randint(5, 4096, (3, 16), generator=draw),
        "decoder_input_ids": labels,
        "labels": labels,
        "language": torch.arange(3) if dist.data_place().rank == 0 else torch.zeros(3, dtype=torch.int64),
    }
    text = reconstructions(engine, [heldout], lambda ids: " ".join(map(str, ids.tolist())))
    engine.close()
    gc.collect()
    return {"text": text}


FROZEN = ("encoder.*",)
T5 = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 12, "norm": "rms", "gated": True}
T5 |= {"biases": False, "embed_norm": False, "scale_attention": False, "head_size": 6}
VARIANTS = {
    "plain": {},
    "resumed": {"resume": True},
    "tried": {"trial": True},
    "frozen": {"frozen": FROZEN, "resume": True, "trial": True},
    "recomputed": {"frozen": FROZEN, "recomputed": True, "steps": 4},
    "scaled": {"scaled": True, "steps": 8},
    "scaled_resumed": {"scaled": True, "steps": 8, "resume": True},
    "post": {"config": dataclasses.replace(CONFIG, norm_position="post"), "steps": 4},
    "t5": {"config": dataclasses.replace(CONFIG, **T5), "steps": 4},
}
DEEP = {"deep": {"config": dataclasses.replace(CONFIG, **T5, num_encoder_layers=5, num_decoder_layers=4), "steps": 4}}
BRIEF = {"brief": {"steps": 4}, "brief_resumed": {"steps": 4, "resume": True}}  # where a step takes seconds


def spec_of(text: str) -> Local | Zero | Pipe:
    """`local`, `pipe3` of three parts, or a file of ZeRO's."""
    if text.startswith("pipe"):
        return Pipe(stages=int(text.removeprefix("pipe")))
    return Local() if text == "local" else Zero(config=text)


def main() -> None:
    out, engine, precision, *variants = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    torch.set_num_threads(1)
    assert MOMENTS[0] == "exp_avg"
    for config in engine.split(","):
        spec = spec_of(config)
        if pipe_stages(spec) > 1:
            join()
            dist.lay_out(pipe_stages(spec))
        for variant in variants or [*VARIANTS, "shown"]:
            shown = variant == "shown"
            result = show(spec, precision) if shown else train(spec, precision, **(VARIANTS | BRIEF | DEEP)[variant])
            if dist.is_main():
                files.write_json(Path(out) / f"{Path(config).stem}-{precision}-{variant}.json", result)


if __name__ == "__main__":
    main()
