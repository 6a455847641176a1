"""A plan as tables for a person."""

from __future__ import annotations

from typing import Any

GIB = 1 << 30
GB = 1e9
MEMORY_COLUMNS = ("parameters", "gradients", "optimizer", "update", "buffers", "activations", "vocabulary", "peak")
NOTES = """\
update and activations do not coincide: peak counts the larger. host is the offloaded share of one rank.
peak leaves out the framework's own memory (about 1 GiB) and fragmentation."""
PIPELINES = "memory above is of the fullest part; days count the waiting beside --mfu."


def table(plan: dict[str, Any]) -> str:
    """The plan for a person."""
    head = f"{plan['gpus']} x {plan['gpu']} ({plan['peak_flops'] / 1e12:g} TFLOP/s bf16), MFU {plan['mfu']:.0%}"
    lines = [f"{head}, vocabulary {plan['vocab_size']:,}", ""]
    costs = [["stage", "steps", "tokens", "FLOPs", "units", "days", "GPU-hours"]]
    costs += [_cost_row(stage["name"], f"{stage['steps']:,}", stage) for stage in plan["stages"]]
    costs.append(_cost_row("total", "", plan["total"]))
    lines += [*aligned(costs), "", "where a step's FLOPs go"]
    parts = list(plan["stages"][0]["step_flops"])
    shares = [["stage", *(part.replace("_", " ") for part in parts[:-1]), "FLOPs per step"]]
    for stage in plan["stages"]:
        flops = stage["step_flops"]
        values = [f"{flops[part] / flops['total']:.1%}" for part in parts[:-1]]
        shares.append([stage["name"], *values, f"{flops['total']:.3g}"])
    lines += [*aligned(shares), "", f"memory per GPU in GiB, of {plan['gpu_memory'] / GIB:g}"]
    memory = [["stage", *MEMORY_COLUMNS, "host"]]
    for stage in plan["stages"]:
        fits = "" if stage["memory"]["peak"] <= plan["gpu_memory"] else "  does not fit"
        values = [f"{stage['memory'][column] / GIB:.2f}" for column in (*MEMORY_COLUMNS, "host")]
        memory.append([stage["name"], *values[:-1], values[-1] + fits])
    lines += [*aligned(memory), NOTES, "", *_communication_lines(plan), *_pipeline_lines(plan), *_saving_lines(plan)]
    return "\n".join(lines)


def _communication_lines(plan: dict[str, Any]) -> list[str]:
    rows = [
        ["stage", "weights", "gradients", "states", "copies", "total", f"s at {plan['link']:g} GB/s", "s computing"]
    ]
    for stage in plan["stages"]:
        sent = stage["communication"]
        values = [f"{sent[key] / GB:.2f}" for key in ("weights", "gradients", "states", "copies", "total")]
        rows.append([stage["name"], *values, f"{sent['seconds']:.3g}", f"{stage['compute_seconds']:.3g}"])
    return ["GB that a GPU sends in a step", *aligned(rows), ""]


def _pipeline_lines(plan: dict[str, Any]) -> list[str]:
    lines = []
    for stage in (stage for stage in plan["stages"] if stage["pipeline"] is not None):
        found = stage["pipeline"]
        head = f"pipeline of stage {stage['name']}: {len(found['parts'])} parts x {found['data_ranks']} data ranks, "
        lines.append(f"{head}{found['micro_batches']} micro-batches, {found['bubble']:.1%} of a step waiting")
        rows = [["part", "share of FLOPs", "holds"]]
        rows += [[str(n), f"{part['share']:.1%}", part["units"]] for n, part in enumerate(found["parts"])]
        lines += [*aligned(rows), PIPELINES, ""]
    return lines


def _saving_lines(plan: dict[str, Any]) -> list[str]:
    saving, total = plan["saving"], plan["total"]
    if saving is None:
        return ["saving: n/a, this recipe trains one kind of model, so there is no pair to train from scratch"]
    scratch = saving["scratch"]
    rows = [["", "recipe", "from scratch", "saved"]]
    rows.append(["published units", f"{total['units']:.2f}", f"{scratch['units']:.2f}", f"{saving['saved_units']:.1%}"])
    rows.append(["model FLOPs", f"{total['flops']:.3g}", f"{scratch['flops']:.3g}", f"{saving['saved_flops']:.1%}"])
    rows.append(["GPU-hours", amount(total["gpu_hours"]), amount(scratch["gpu_hours"]), ""])
    return [f"against an encoder and a seq2seq model of {saving['scratch_steps']:,} steps each", *aligned(rows)]


def _cost_row(name: str, steps: str, cost: dict[str, Any]) -> list[str]:
    amounts = [f"{amount(cost['tokens'] / 1e9)} B", f"{cost['flops']:.3g}", amount(cost["units"])]
    return [name, steps, *amounts, amount(cost["days"]), amount(cost["gpu_hours"])]


def amount(value: float) -> str:
    """Three digits, or whole numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
