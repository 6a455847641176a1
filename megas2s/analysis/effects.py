"""What a task owes to a part of the model: fine-tuned with the part frozen, and with its layers drawn anew.

    as it is              nothing changed
    encoder frozen        freeze: [encoder.*]
    encoder anew          reinitialise: [encoder.layers]
    encoder layer 4 frozen, encoder layer 4 anew      the same of encoder.layers.3

A part that the task needs costs points when its layers begin anew; one that already knows enough costs none when it is
frozen (Zhong et al. 2022, arXiv 2205.14912, compare encoder and decoder so). The caller fine-tunes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import pyplot as plt
from torch.utils.tensorboard import SummaryWriter

from megas2s import files
from megas2s.analysis.report import BOARD
from megas2s.models.config import ModelConfig

AS_IT_IS = "as it is"
Scores = Mapping[str, float]


class Variant(NamedTuple):
    """Patterns of a fine-tuning recipe."""

    freeze: tuple[str, ...] = ()
    reinitialise: tuple[str, ...] = ()


def variants(config: ModelConfig, *, stacks: Sequence[str], each_layer: bool) -> dict[str, Variant]:
    """What is compared, the unchanged model first."""
    found = {AS_IT_IS: Variant()}
    for stack in stacks:
        depth = config.num_encoder_layers if stack == "encoder" else config.num_decoder_layers
        found[f"{stack} frozen"] = Variant(freeze=(f"{stack}.*",))
        found[f"{stack} anew"] = Variant(reinitialise=(f"{stack}.layers",))
        for layer in range(depth) if each_layer and depth > 1 else ():  # a single layer is the stack
            found[f"{stack} layer {layer + 1} frozen"] = Variant(freeze=(f"{stack}.layers.{layer}.*",))
            found[f"{stack} layer {layer + 1} anew"] = Variant(reinitialise=(f"{stack}.layers.{layer}",))
    return found


def write(scores: Mapping[str, Scores], facts: Mapping[str, object], folder: Path) -> None:
    """Put effects.png, TensorBoard's scalars and, last, effects.json into `folder`."""
    with files.disk_trouble(folder):
        folder.mkdir(parents=True, exist_ok=True)
        board = SummaryWriter(str(folder / BOARD))
        for number, found in enumerate(scores.values()):
            for name, value in found.items():
                board.add_scalar(f"effects/{name}", value, number)
        board.close()
        draw(scores, folder / "effects.png")
    files.write_json(
        folder / "effects.json", {**facts, "scores": {name: dict(found) for name, found in scores.items()}}
    )


def draw(scores: Mapping[str, Scores], path: Path) -> None:
    """One panel a score, one bar a variant, a line where the unchanged model is."""
    matplotlib.use("Agg")
    names = list(scores[AS_IT_IS])
    figure, panels = plt.subplots(1, len(names), figsize=(4 * len(names), 1 + 0.35 * len(scores)), squeeze=False)
    for axes, name in zip(panels[0], names, strict=True):
        values = [found[name] for found in scores.values()]
        axes.barh(range(len(values)), values, color=["C0" if key == AS_IT_IS else "C7" for key in scores])
        axes.axvline(values[0], color="C0", linewidth=1)
        axes.set_yticks(range(len(values)), list(scores))
        axes.invert_yaxis()
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    for axes in panels[0][1:]:
        axes.set_yticklabels([])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(scores: Mapping[str, Scores]) -> list[str]:
    """The same as lines of text."""
    names = list(scores[AS_IT_IS])
    widths = [max(len(name), 8) + 2 for name in names]
    label = max(map(len, scores))
    lines = [" " * label + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for variant, found in scores.items():
        cells = "".join(f"{found[name]:>{width}.4f}" for name, width in zip(names, widths, strict=True))
        lines.append(f"{variant:<{label}}{cells}")
    return lines
