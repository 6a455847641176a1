"""What analyses found, for the three who read it: a table for people, JSON for programs, scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from megas2s import files
from megas2s.analysis.findings import Findings
from megas2s.analysis.probing import ITERATIONS
from megas2s.analysis.tasks import Task

BOARD = "tensorboard"

Column = list[float | None]  # by height; None where there is no such layer


def average(values: tuple[float, ...]) -> float:
    """The mean over heads."""
    return sum(values) / len(values)


def plain(found: Findings, tasks: Mapping[str, Task]) -> dict[str, object]:
    """Findings as JSON has them: layers in order, bottom first; of probes and geometry the first is the embeddings'."""
    values: dict[str, object] = {}
    if found.neurons is not None:
        values["neurons"] = {stack: [layer._asdict() for layer in layers] for stack, layers in found.neurons.items()}
    if found.attention is not None:
        values["attention"] = {
            kind: [
                {"nats": average(layer.nats), "share": average(layer.share), "heads": layer._asdict()}
                for layer in attentions
            ]
            for kind, attentions in found.attention.items()
        }
    if found.probes is not None:
        values["probes"] = {name: _task(tasks[name]) | probed._asdict() for name, probed in found.probes.items()}
    if found.geometry is not None:
        values["geometry"] = found.geometry._asdict()
    return values


def columns(found: Findings) -> dict[str, Column]:
    """Every number that a layer has one of, by its name in TensorBoard; the first entry is height 0, the embeddings."""
    values: dict[str, Column] = {}
    for stack, layers in (found.neurons or {}).items():
        values[f"{stack}/active"] = [None, *(layer.rate for layer in layers)]
        values[f"{stack}/never_active"] = [None, *(layer.never for layer in layers)]
    for kind, attentions in (found.attention or {}).items():
        owner, part = kind.split("_", 1)
        values[f"{owner}/{part}_entropy"] = [None, *(average(layer.nats) for layer in attentions)]
        values[f"{owner}/{part}_share"] = [None, *(average(layer.share) for layer in attentions)]
    for name, probed in (found.probes or {}).items():
        values[f"probe/{name}"] = list(probed.accuracy)
    if found.geometry is not None:
        values["geometry/uniformity"] = list(found.geometry.uniformity)
        for view, aligned in found.geometry.alignment.items():
            values[f"geometry/alignment_{view}"] = list(aligned)
    return values


def table(found: Findings, tasks: Mapping[str, Task]) -> Iterator[str]:
    """The same as lines of text, a table for each stack; the last line of the encoder's has the probes' baselines.

    Below them stand the probes that were still changing when they were stopped.
    """
    every = columns(found)
    for title, decoder in (("encoder", False), ("decoder", True)):
        part = {name: column for name, column in every.items() if name.startswith("decoder/") == decoder}
        if not part:
            continue
        widths = {name: max(len(_short(name)), 6) + 2 for name in part}
        yield f"{title:<10}" + "".join(f"{_short(name):>{width}}" for name, width in widths.items())
        for height in range(max(map(len, part.values()))):
            cells = {name: column[height] for name, column in part.items()}
            if any(value is not None for value in cells.values()):
                label = f"layer {height}" if height else "embeddings"
                yield f"{label:<10}" + "".join(f"{_cell(cells[name]):>{width}}" for name, width in widths.items())
        if not decoder and found.probes is not None:
            least = {f"probe/{name}": _cell(tasks[name].majority) for name in found.probes}
            yield f"{'majority':<10}" + "".join(f"{least.get(name, ''):>{width}}" for name, width in widths.items())
    for name, probed in (found.probes or {}).items():
        if unfinished := [str(height) for height, done in enumerate(probed.converged) if not done]:
            yield f"the probe {name} had not converged after {ITERATIONS} iterations at layer {', '.join(unfinished)}"


def write(values: Mapping[str, object], found: Findings, folder: Path) -> None:
    """Put TensorBoard's scalars and, last, analysis.json into `folder`; heights are TensorBoard's steps."""
    with files.disk_trouble(folder):
        board = SummaryWriter(str(folder / BOARD))
        for name, column in columns(found).items():
            for height, value in enumerate(column):
                if value is not None:
                    board.add_scalar(name, value, height)
        board.close()
    files.write_json(folder / "analysis.json", values)


def _task(task: Task) -> dict[str, object]:
    trained, tested = int((~task.test).sum()), int(task.test.sum())
    return {"classes": task.classes, "trained": trained, "tested": tested, "majority": task.majority}


def _short(name: str) -> str:
    """A column's head: `self nats`, `self share`, `bigrams`, `uniform`, `align noise`."""
    short = name.split("/")[-1].replace("_attention_entropy", " nats").replace("_attention_share", " share")
    return short.replace("_active", "").replace("uniformity", "uniform").replace("alignment_", "align ")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
