"""What a recipe costs before it runs: tokens, FLOPs, training units, days, memory per GPU, and what it saves.

python tools/plan.py launch/recipes/two_stage.yaml --gpus 64 --gpu h200
python tools/plan.py launch/recipes/alexatm_20b.yaml --gpus 128 --gpu a100 --vocab-size 150016 --json
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from megas2s import cli

if TYPE_CHECKING:
    from megas2s.models.config import ModelConfig
    from megas2s.models.parts import Span
    from megas2s.recipe import Recipe
    from megas2s.tokenizer.vocab import Vocabulary
    from megas2s.train.ledger import Device, Work
    from megas2s.train.memory import Memory
    from megas2s.train.stage import Stage

GIB = 1 << 30
MEMORY_COLUMNS = ("parameters", "gradients", "optimizer", "update", "buffers", "activations", "vocabulary", "peak")
NOTES = """\
update and activations do not coincide: peak counts the larger. host is the offloaded share of one rank.
peak leaves out the framework's own memory (about 1 GiB) and fragmentation."""
PIPELINES = "memory above is of the fullest part; days take --mfu as it is, waiting included."


def arguments() -> argparse.Namespace:
    parser = cli.recipe_parser(
        __doc__ or "", dry_run="load and check everything, say what would be planned, work out no costs"
    )
    add = parser.add_argument
    add("--gpus", type=int, help="devices, one rank each; the recipe's `ranks` or 1 where absent")
    add("--gpu", default="h200", help="kind of device, for example h200, h100, a100, l40s, mi300x")
    add("--mfu", type=float, default=0.4, help="share of the peak that training reaches")
    add("--vocab-size", type=int, help="entries of the vocabulary; the corpus' tokenizer's where absent")
    add("--json", action="store_true", help="one JSON object instead of tables; bytes, FLOPs and days")
    return parser.parse_intermixed_args()


def main() -> int:
    asked = arguments()
    from megas2s.errors import BadConfig
    from megas2s.prepare import model_config
    from megas2s.recipe import dump_recipe, load_recipe
    from megas2s.spec import nearest
    from megas2s.train.ledger import PEAKS, device, work_of
    from megas2s.train.memory import stage_memory

    recipe = load_recipe(asked.recipe, asked.overrides)
    if asked.print_config:
        print(dump_recipe(recipe), end="")
        return 0
    gpu = device(asked.gpu)
    if gpu is None:
        raise BadConfig(f"--gpu {asked.gpu!r} is not in our table of peaks; {nearest(asked.gpu, PEAKS)}")
    if not 0 < asked.mfu <= 1:
        raise BadConfig(f"--mfu is a share of the peak and must lie in (0, 1], got {asked.mfu}")
    gpus = asked.gpus if asked.gpus is not None else recipe.ranks or 1
    if gpus < 1:
        raise BadConfig(f"--gpus must be at least 1, got {gpus}")
    recipe.check_ranks(gpus)
    vocabulary = find_vocabulary(recipe, asked.vocab_size)
    configs = [model_config(recipe, stage, vocabulary) for stage in recipe.stages]
    works = [work_of(stage, config, vocabulary) for stage, config in zip(recipe.stages, configs, strict=True)]
    stages = list(zip(recipe.stages, configs, works, strict=True))
    memories = [max(stage_memory(*each, gpus=gpus), key=lambda part: part.peak) for each in stages]
    pipelines = [pipeline(*each, gpus=gpus) for each in stages]
    if asked.dry_run:
        names = ", ".join(stage.name for stage in recipe.stages)
        print(f"would plan {names} on {gpus} x {asked.gpu}, vocabulary {vocabulary.size:,}")
        return 0
    plan = describe(works, memories, pipelines, gpus=gpus, gpu=gpu, mfu=asked.mfu)
    plan |= {"gpu": asked.gpu, "vocab_size": vocabulary.size}
    print(json.dumps(plan, indent=2) if asked.json else table(plan))
    return 0


def find_vocabulary(recipe: Recipe, size: int | None) -> Vocabulary:
    """The corpus' own, or one of `size` entries that stands in for it."""
    from pathlib import Path

    from megas2s.data.corpus import Corpus
    from megas2s.errors import BadConfig
    from megas2s.tokenizer.load import Tokenizer
    from megas2s.tokenizer.vocab import stand_in

    if size is not None:
        if size < 128:
            raise BadConfig(f"--vocab-size must be at least 128, got {size}")
        return stand_in(size)
    if not Path(recipe.corpus).is_dir():
        raise BadConfig(
            f"the size of the vocabulary is unknown: there is no corpus at {recipe.corpus} yet; "
            "make it with tools/preprocess.py or say --vocab-size"
        )
    return Tokenizer.load(Corpus.open(Path(recipe.corpus)).tokenizer_folder).vocabulary


def pipeline(stage: Stage, config: ModelConfig, work: Work, *, gpus: int) -> dict[str, Any] | None:
    """Where a pipeline is cut, each part's share of the step's FLOPs, and how long the parts wait for each other."""
    from megas2s.train.flops import unit_flops
    from megas2s.train.placement import bubble, spans_of

    spans = spans_of(stage.engine, config, work.size, frozen=work.frozen)
    if not spans:
        return None
    costs = unit_flops(work.shapes, work.size, frozen=work.frozen)
    shares = [sum(costs[span.first : span.stop]) / sum(costs) for span in spans]
    ranks = stage.data_ranks(gpus)
    micro_batches = stage.rows // (ranks * stage.micro_batch_rows(ranks))
    return {
        "parts": [{"units": named(config, span), "share": share} for span, share in zip(spans, shares, strict=True)],
        "data_ranks": ranks,
        "micro_batches": micro_batches,
        "bubble": bubble(shares, micro_batches),
    }


def named(config: ModelConfig, span: Span) -> str:
    """The units of a part for a person: `encoder 6-11, decoder 0-3`."""
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    found = []
    for name, first, count in (("encoder", 0, encoder), ("decoder", encoder, decoder)):
        start, stop = max(span.first, first) - first, min(span.stop, first + count) - first
        if start < stop:
            found.append(f"{name} {start}-{stop - 1}" if stop - start > 1 else f"{name} {start}")
    return ", ".join([*found, *(["head"] if encoder + decoder in span else [])])


def describe(
    works: list[Work],
    memories: list[Memory],
    pipelines: list[dict[str, Any] | None],
    *,
    gpus: int,
    gpu: Device,
    mfu: float,
) -> dict[str, Any]:
    """The plan as plain data."""
    from megas2s.train.ledger import Cost, cost, days, per_step, saving, total_cost

    def priced(found: Cost) -> dict[str, Any]:
        duration = days(found.flops, gpus=gpus, peak=gpu.flops, mfu=mfu)
        return {**found._asdict(), "days": duration, "gpu_hours": duration * 24 * gpus}

    stages = []
    for work, memory, placed in zip(works, memories, pipelines, strict=True):
        parts = per_step(work)
        bytes_ = {
            **memory.states._asdict(),
            "activations": memory.activations,
            "vocabulary": memory.vocabulary,
            "peak": memory.peak,
        }
        facts = {"name": work.name, "steps": work.steps, **priced(cost(work)), "size": work.size._asdict()}
        stages.append(
            {**facts, "step_flops": {**parts._asdict(), "total": parts.total}, "memory": bytes_, "pipeline": placed}
        )
    compared = saving(works)
    summary = None
    if compared is not None:
        summary = {
            "scratch_steps": compared.scratch_steps,
            "scratch": priced(compared.scratch),
            "saved_units": compared.units,
            "saved_flops": compared.flops,
        }
    return {
        "gpus": gpus,
        "peak_flops": gpu.flops,
        "gpu_memory": int(gpu.memory * GIB),
        "mfu": mfu,
        "stages": stages,
        "total": priced(total_cost(works)),
        "saving": summary,
    }


def table(plan: dict[str, Any]) -> str:
    """The plan for a person."""
    head = f"{plan['gpus']} x {plan['gpu']} ({plan['peak_flops'] / 1e12:g} TFLOP/s bf16), MFU {plan['mfu']:.0%}"
    lines = [f"{head}, vocabulary {plan['vocab_size']:,}", ""]
    costs = [["stage", "steps", "tokens", "FLOPs", "units", "days", "GPU-hours"]]
    costs += [_cost_row(stage["name"], f"{stage['steps']:,}", stage) for stage in plan["stages"]]
    costs.append(_cost_row("total", "", plan["total"]))
    lines += [*_aligned(costs), "", "where a step's FLOPs go"]
    parts = list(plan["stages"][0]["step_flops"])
    shares = [["stage", *(part.replace("_", " ") for part in parts[:-1]), "FLOPs per step"]]
    for stage in plan["stages"]:
        flops = stage["step_flops"]
        values = [f"{flops[part] / flops['total']:.1%}" for part in parts[:-1]]
        shares.append([stage["name"], *values, f"{flops['total']:.3g}"])
    lines += [*_aligned(shares), "", f"memory per GPU in GiB, of {plan['gpu_memory'] / GIB:g}"]
    memory = [["stage", *MEMORY_COLUMNS, "host"]]
    for stage in plan["stages"]:
        fits = "" if stage["memory"]["peak"] <= plan["gpu_memory"] else "  does not fit"
        values = [f"{stage['memory'][column] / GIB:.2f}" for column in (*MEMORY_COLUMNS, "host")]
        memory.append([stage["name"], *values[:-1], values[-1] + fits])
    lines += [*_aligned(memory), NOTES, "", *_pipeline_lines(plan), *_saving_lines(plan)]
    return "\n".join(lines)


def _pipeline_lines(plan: dict[str, Any]) -> list[str]:
    lines = []
    for stage in (stage for stage in plan["stages"] if stage["pipeline"] is not None):
        found = stage["pipeline"]
        head = f"pipeline of stage {stage['name']}: {len(found['parts'])} parts x {found['data_ranks']} data ranks, "
        lines.append(f"{head}{found['micro_batches']} micro-batches, {found['bubble']:.1%} of a step waiting")
        rows = [["part", "share of FLOPs", "holds"]]
        rows += [[str(n), f"{part['share']:.1%}", part["units"]] for n, part in enumerate(found["parts"])]
        lines += [*_aligned(rows), PIPELINES, ""]
    return lines


def _saving_lines(plan: dict[str, Any]) -> list[str]:
    saving, total = plan["saving"], plan["total"]
    if saving is None:
        return ["saving: n/a, this recipe trains one kind of model, so there is no pair to train from scratch"]
    scratch = saving["scratch"]
    rows = [["", "recipe", "from scratch", "saved"]]
    rows.append(["published units", f"{total['units']:.2f}", f"{scratch['units']:.2f}", f"{saving['saved_units']:.1%}"])
    rows.append(["model FLOPs", f"{total['flops']:.3g}", f"{scratch['flops']:.3g}", f"{saving['saved_flops']:.1%}"])
    rows.append(["GPU-hours", _amount(total["gpu_hours"]), _amount(scratch["gpu_hours"]), ""])
    return [f"against an encoder and a seq2seq model of {saving['scratch_steps']:,} steps each", *_aligned(rows)]


def _cost_row(name: str, steps: str, cost: dict[str, Any]) -> list[str]:
    amounts = [f"{_amount(cost['tokens'] / 1e9)} B", f"{cost['flops']:.3g}", _amount(cost["units"])]
    return [name, steps, *amounts, _amount(cost["days"]), _amount(cost["gpu_hours"])]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    cli.run(main)
