"""Drawings of what analyses found, one file each, and the same in TensorBoard. Needs matplotlib, an extra (`dev`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch.utils.tensorboard import SummaryWriter

from megas2s import files
from megas2s.analysis.attention import Entropy
from megas2s.analysis.findings import Findings
from megas2s.analysis.report import BOARD, average
from megas2s.analysis.tasks import Task

COLOURS = {"encoder": "C0", "decoder": "C1"}
KINDS = {
    "encoder_self_attention": "encoder, self-attention",
    "decoder_self_attention": "decoder, self-attention",
    "decoder_cross_attention": "decoder, attention over the encoder",
}
QUESTIONS = {
    "length": "length: how many words?",
    "content": "content: which word is in it?",
    "bigrams": "bigrams: neighbours exchanged?",
    "order": "order: distant words exchanged?",
}


def draw(found: Findings, tasks: Mapping[str, Task], title: str, folder: Path) -> list[Path]:
    """Write neurons.png, attention.png, probes.png and geometry.png, those of them that were asked for."""
    matplotlib.use("Agg")
    figures: dict[str, Callable[[], Figure]] = {
        "neurons": lambda: neurons(found),
        "attention": lambda: attention(found),
        "probes": lambda: probes(found, tasks),
        "geometry": lambda: geometry(found),
    }
    written = []
    with files.disk_trouble(folder), matplotlib.rc_context():
        matplotlib.rcParams.update(
            {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
        )
        folder.mkdir(parents=True, exist_ok=True)
        board = SummaryWriter(str(folder / BOARD))
        for name, make in figures.items():
            if getattr(found, name) is not None:
                figure = make()
                figure.suptitle(title, x=0.01, ha="left", fontsize=10)
                written.append(folder / f"{name}.png")
                figure.savefig(written[-1], dpi=110)
                board.add_figure(name, figure)
        board.close()
    return written


def neurons(found: Findings) -> Figure:
    """The share of active neurons of every layer; behind it the neurons that are ever active."""
    assert found.neurons is not None
    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for stack, layers in found.neurons.items():
        numbers = range(1, len(layers) + 1)
        axes.plot(numbers, [layer.rate for layer in layers], "o-", color=COLOURS[stack], label=f"{stack}, active")
        ever = [1 - layer.never for layer in layers]
        axes.plot(numbers, ever, ":", color=COLOURS[stack], label=f"{stack}, active anywhere")
    axes.set(xlabel="layer", ylabel="share of feed-forward neurons", ylim=(0, 1.03))
    _finish(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, ncols=2)
    return figure


def attention(found: Findings) -> Figure:
    """For each kind of attention the entropy of every head as a share of its maximum, and their mean."""
    assert found.attention is not None
    kinds = found.attention
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(3.6 * len(kinds) + 0.6, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (kind, layers) in zip(panels.flat, kinds.items(), strict=True):
        _heads(panel, layers, COLOURS[kind.split("_")[0]])
        panel.set_title(KINDS[kind], loc="left", fontsize=9)
        panel.set(xlabel="layer", ylim=(0, 1.03))
        _finish(panel)
    panels[0, 0].set_ylabel("entropy, share of ln(visible positions)")
    panels[0, 0].legend(frameon=False, loc="lower left")
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def probes(found: Findings, tasks: Mapping[str, Task]) -> Figure:
    """For each task the accuracy at every height with its standard error, above the baseline."""
    assert found.probes is not None
    width = 2.8 * len(found.probes) + 0.8
    figure, panels = plt.subplots(
        1, len(found.probes), figsize=(width, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (name, probed) in zip(panels.flat, found.probes.items(), strict=True):
        heights = range(len(probed.accuracy))
        panel.errorbar(heights, probed.accuracy, probed.error, fmt="o-", color="C0", capsize=2, label="linear probe")
        panel.axhline(tasks[name].majority, color="0.4", linestyle="--", label="most frequent class")
        panel.set_title(QUESTIONS[name], loc="left", fontsize=9)
        panel.set(xlabel="layer (0: embeddings)", ylim=(0, 1.03))
        _finish(panel)
    panels[0, 0].set_ylabel("accuracy")
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0, 0].legend(frameon=False)
    return figure


def geometry(found: Findings) -> Figure:
    """Alignment and uniformity at every height, and both as a way through their plane; down and left is better."""
    assert found.geometry is not None
    uniform, aligned = found.geometry.uniformity, found.geometry.alignment
    figure, (one, two, plane) = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    heights = range(len(uniform))
    one.plot(heights, uniform, "o-", color="C0")
    one.set(xlabel="layer (0: embeddings)", ylabel="uniformity (lower is better)")
    one.set_ylim(min(-4.0, *uniform) - 0.1, 0.0)
    for number, (view, values) in enumerate(aligned.items()):
        two.plot(heights, values, "o-", color=f"C{number + 2}", label=f"{view} views")
        plane.plot(uniform, values, "o-", color=f"C{number + 2}", markersize=3)
        for height in (0, len(uniform) - 1):
            label = str(height) if height else "embeddings"
            plane.annotate(label, (uniform[height], values[height]), xytext=(4, 4), textcoords="offset points")
    top = 1.15 * max(value for values in aligned.values() for value in values)
    two.set(xlabel="layer (0: embeddings)", ylabel="alignment (lower is better)", ylim=(0, top))
    two.legend(frameon=False, loc="lower left")
    plane.margins(x=0.2)
    plane.set(xlabel="uniformity", ylabel="alignment", ylim=(0, top))
    for axes in (one, two):
        _finish(axes)
    return figure


def _heads(panel: Axes, layers: list[Entropy], colour: str) -> None:
    numbers = range(1, len(layers) + 1)
    dots = [(number, share) for number, layer in zip(numbers, layers, strict=True) for share in layer.share]
    panel.plot(*zip(*dots, strict=True), "o", color=colour, alpha=0.35, markersize=4, mew=0, label="one head")
    panel.plot(
        numbers, [average(layer.share) for layer in layers], "-", color=colour, linewidth=2, label="mean of heads"
    )


def _finish(axes: Axes) -> None:
    """Layers are whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
