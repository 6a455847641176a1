"""How the steps of a recipe's stages scale with the number of GPUs: a row for each number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.train.ledger import SECONDS_PER_DAY, Work
from megas2s.train.scaling import Scaled, scaled
from megas2s.train.stage import Stage

from .tables import GB, GIB, aligned, amount

NOTE = """\
A step takes at least the longer of computing and sending, at most both, one after the other; days are for the two.
Sums over ranks, checkpoints, evaluation, stragglers and the loader are not counted."""


def over(
    stages: Sequence[tuple[Stage, ModelConfig, Work]],
    numbers: Sequence[int],
    *,
    gpu_memory: float,
    peak: float,
    mfu: float,
    link: float,
) -> list[dict[str, Any]]:
    """Per stage its points; where a batch cannot be divided among so many GPUs, why."""
    found = []
    for stage, config, work in stages:
        points: list[dict[str, Any]] = []
        for gpus in numbers:
            try:
                point = scaled(_smaller(stage, gpus), config, work, gpus=gpus, peak=peak, mfu=mfu, link=link)
            except BadConfig as error:
                points.append({"gpus": gpus, "refused": str(error)})
            else:
                points.append(_facts(point, stage.total_steps, gpu_memory))
        found.append({"name": stage.name, "points": points})
    return found


def _smaller(stage: Stage, gpus: int) -> Stage:
    """The stage with as large a micro-batch as divides a rank's rows: on more GPUs there are fewer of them."""
    ranks = stage.data_ranks(gpus)
    if stage.micro_batch is None or stage.rows % ranks:
        return stage
    return dataclasses.replace(stage, micro_batch=math.gcd(stage.rows // ranks, stage.micro_batch))


def _facts(point: Scaled, steps: int, gpu_memory: float) -> dict[str, Any]:
    return {
        "gpus": point.gpus,
        "micro_batch": point.micro_batch,
        "micro_batches": point.micro_batches,
        "memory": point.memory.peak,
        "fits": point.memory.peak <= gpu_memory,
        "bytes_sent": point.traffic.total,
        "waiting": point.waiting,
        "compute_seconds": point.compute,
        "sending_seconds": point.sending,
        "step_seconds": [point.fastest, point.slowest],
        "days": [seconds * steps / SECONDS_PER_DAY for seconds in (point.fastest, point.slowest)],
    }


def table(plan: dict[str, Any]) -> str:
    """The points for a person."""
    lines = [
        f"{plan['gpu']}, MFU {plan['mfu']:.0%}, a link of {plan['link']:g} GB/s, vocabulary {plan['vocab_size']:,}"
    ]
    for stage in plan["stages"]:
        rows = [["GPUs", "micro-batches x rows", "GiB", "s computing", "GB sent", "s sending", "s a step", "days"]]
        notes = []
        for point in stage["points"]:
            if "refused" in point:
                notes.append(f"{point['gpus']}: {point['refused']}")
                continue
            memory = f"{point['memory'] / GIB:.1f}{'' if point['fits'] else ' too much'}"
            rows.append(
                [
                    f"{point['gpus']:,}",
                    f"{point['micro_batches']:,} x {point['micro_batch']}",
                    memory,
                    f"{point['compute_seconds']:.3g}",
                    f"{point['bytes_sent'] / GB:.1f}",
                    f"{point['sending_seconds']:.3g}",
                    " to ".join(f"{seconds:.3g}" for seconds in point["step_seconds"]),
                    " to ".join(amount(days) for days in point["days"]),
                ]
            )
        lines += ["", stage["name"], *aligned(rows), *notes]
    return "\n".join([*lines, "", NOTE])
