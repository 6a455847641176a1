"""What a recipe costs before it runs: tokens, FLOPs, training units, days, memory per GPU, and what it saves.

python tools/plan.py launch/recipes/two_stage.yaml --gpus 64 --gpu h200
python tools/plan.py launch/recipes/alexatm_20b.yaml --gpus 128 --gpu a100 --vocab-size 150016 --json
python tools/plan.py launch/recipes/alexatm_20b.yaml --gpus 64 128 256 512 --gpu h100 --vocab-size 150016
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megas2s import cli

if TYPE_CHECKING:
    from megas2s.models.config import ModelConfig
    from megas2s.models.parts import Span
    from megas2s.recipe import Recipe
    from megas2s.tokenizer.vocab import Vocabulary
    from megas2s.train.ledger import Device, Work
    from megas2s.train.scaling import Scaled
    from megas2s.train.stage import Stage


def arguments() -> argparse.Namespace:
    parser = cli.recipe_parser(
        __doc__ or "", dry_run="load and check everything, say what would be planned, work out no costs"
    )
    add = parser.add_argument
    add(
        "--gpus",
        type=int,
        nargs="+",
        help="devices, one rank each (default: the recipe's `ranks`, or the fewest); several: how steps scale",
    )
    add("--gpu", default="h200", help="kind of device, for example h200, h100, a100, l40s, mi300x")
    add("--mfu", type=float, default=0.4, help="share of the peak that training reaches")
    add(
        "--link",
        type=float,
        default=50.0,
        help="GB/s that a GPU sends in a ring over all, as nccl-tests' bus bandwidth",
    )
    add("--vocab-size", type=int, help="entries of the vocabulary; the corpus' tokenizer's where absent")
    add("--json", action="store_true", help="one JSON object instead of tables; bytes, FLOPs and days")
    return parser.parse_intermixed_args()


def main() -> int:
    asked = arguments()
    from plans import scaling, tables

    from megas2s.errors import BadConfig
    from megas2s.prepare import model_config
    from megas2s.recipe import dump_recipe, load_recipe
    from megas2s.spec import nearest
    from megas2s.train.ledger import PEAKS, device, work_of
    from megas2s.train.scaling import scaled

    recipe = load_recipe(asked.recipe, asked.overrides)
    if asked.print_config:
        print(dump_recipe(recipe), end="")
        return 0
    gpu = device(asked.gpu)
    if gpu is None:
        raise BadConfig(f"--gpu {asked.gpu!r} is not in our table of peaks; {nearest(asked.gpu, PEAKS)}")
    if not 0 < asked.mfu <= 1:
        raise BadConfig(f"--mfu is a share of the peak and must lie in (0, 1], got {asked.mfu}")
    numbers = asked.gpus or [recipe.ranks or recipe.fewest_ranks]
    if min(numbers) < 1:
        raise BadConfig(f"--gpus must be at least 1, got {min(numbers)}")
    if not asked.link > 0:
        raise BadConfig(f"--link is a speed in GB/s above 0, got {asked.link}")
    gpus = numbers[0]
    if len(numbers) == 1:
        recipe.check_ranks(gpus)
    vocabulary = find_vocabulary(recipe, asked.vocab_size)
    configs = [model_config(recipe, stage, vocabulary) for stage in recipe.stages]
    works = [work_of(stage, config, vocabulary) for stage, config in zip(recipe.stages, configs, strict=True)]
    stages = list(zip(recipe.stages, configs, works, strict=True))
    if asked.dry_run:
        names = ", ".join(stage.name for stage in recipe.stages)
        print(f"would plan {names} on {', '.join(map(str, numbers))} x {asked.gpu}, vocabulary {vocabulary.size:,}")
        return 0
    speeds = {"peak": gpu.flops, "mfu": asked.mfu, "link": asked.link * tables.GB}
    facts = {"gpu": asked.gpu, "vocab_size": vocabulary.size, "link": asked.link}
    if len(numbers) > 1:
        found = scaling.over(stages, numbers, gpu_memory=gpu.memory * tables.GIB, **speeds)
        plan = facts | {"mfu": asked.mfu, "stages": found}
        print(json.dumps(plan, indent=2) if asked.json else scaling.table(plan))
        return 0
    points = [scaled(*each, gpus=gpus, **speeds) for each in stages]
    pipelines = [pipeline(*each[:2], point) for each, point in zip(stages, points, strict=True)]
    plan = describe(works, points, pipelines, gpus=gpus, gpu=gpu, mfu=asked.mfu) | facts
    print(json.dumps(plan, indent=2) if asked.json else tables.table(plan))
    return 0


def find_vocabulary(recipe: Recipe, size: int | None) -> Vocabulary:
    """The corpus' own, or one of `size` entries that stands in for it."""
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


def pipeline(stage: Stage, config: ModelConfig, point: Scaled) -> dict[str, Any] | None:
    """Where a pipeline is cut, each part's share of the step's FLOPs, and how long the parts wait for each other."""
    if not point.spans:
        return None
    placed = zip(point.spans, point.parts, strict=True)
    return {
        "parts": [{"units": named(config, span), "share": share} for span, share in placed],
        "data_ranks": stage.data_ranks(point.gpus),
        "micro_batches": point.micro_batches,
        "bubble": point.waiting,
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
    points: list[Scaled],
    pipelines: list[dict[str, Any] | None],
    *,
    gpus: int,
    gpu: Device,
    mfu: float,
) -> dict[str, Any]:
    """The plan as plain data."""
    from megas2s.train.ledger import Cost, cost, days, per_step, saving, total_cost

    def priced(found: Cost, waiting: float = 0.0) -> dict[str, Any]:
        duration = days(found.flops, gpus=gpus, peak=gpu.flops, mfu=mfu) / (1 - waiting)
        return {**found._asdict(), "days": duration, "gpu_hours": duration * 24 * gpus}

    stages = []
    for work, point, placed in zip(works, points, pipelines, strict=True):
        parts, memory = per_step(work), point.memory
        bytes_ = {
            **memory.states._asdict(),
            "activations": memory.activations,
            "vocabulary": memory.vocabulary,
            "peak": memory.peak,
        }
        facts = {
            "name": work.name,
            "steps": work.steps,
            **priced(cost(work), point.waiting),
            "size": work.size._asdict(),
        }
        stages.append(
            {
                **facts,
                **priced(cost(work), point.waiting),
                "step_flops": {**parts._asdict(), "total": parts.total},
                "memory": bytes_,
                "communication": {**point.traffic._asdict(), "total": point.traffic.total, "seconds": point.sending},
                "compute_seconds": point.compute,
                "pipeline": placed,
            }
        )
    waited = {key: sum(stage[key] for stage in stages) for key in ("days", "gpu_hours")}
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
        "gpu_memory": int(gpu.memory * (1 << 30)),
        "mfu": mfu,
        "stages": stages,
        "total": {**priced(total_cost(works)), **waited},
        "saving": summary,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    cli.run(main)
