"""Draw the losses and the throughput of runs from their metrics.jsonl.

python tools/plot_run.py runs/two_stage --out plots
python tools/plot_run.py runs/two_stage runs/seq2seq_from_scratch --out plots   # losses side by side
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from megas2s import cli

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # panels side by side
TOKENS = "tokens read, millions"


class Stage(NamedTuple):
    """One stage of a run: its lines of metrics.jsonl, and how many tokens the run had read before it."""

    label: str
    before: int
    lines: list[dict[str, Any]]

    def series(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Millions of tokens of the run so far, and values, of the lines of one kind that have the key.

        A value that JSON has no number for is text there: nan, inf.
        """
        reached = {line["step"]: line["tokens"] for line in self.lines if "tokens" in line}
        found = [line for line in self.lines if line["kind"] == kind and key in line]
        return [(self.before + reached[line["step"]]) / 1e6 for line in found], [float(line[key]) for line in found]

    @property
    def tokens(self) -> int:
        """How many the stage has read."""
        return int(max(line["tokens"] for line in self.lines if "tokens" in line))


def read_run(run: Path, *, alone: bool) -> list[Stage]:
    """The stages of a run in the order in which they were trained."""
    from megas2s.errors import BadData

    path = run / "metrics.jsonl"
    if not path.is_file():
        raise BadData(f"there is no {path}; name the folder of a run that has taken a step")
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            by_stage.setdefault(line["stage"], []).append(line)
        except (ValueError, KeyError, TypeError):
            raise BadData(f"{path}, line {number}: not a line of metrics; restore the file from a copy") from None
    stages: list[Stage] = []
    before = 0
    for name, lines in by_stage.items():
        stages.append(Stage(name if alone else f"{run.name}: {name}", before, lines))
        before += stages[-1].tokens
    return stages


def draw(stages: Sequence[Stage], out: Path) -> list[Path]:
    """Write losses.png, languages.png and throughput.png into `out`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
    )
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in {"losses": _losses, "languages": _languages, "throughput": _throughput}.items():
        paths.append(out / f"{name}.png")
        figure(stages).savefig(paths[-1], dpi=110)
    return paths


def _losses(stages: Sequence[Stage]) -> Figure:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for index, stage in enumerate(stages):
        axes.plot(*stage.series("train", "loss"), color=f"C{index}", alpha=0.35, linewidth=1)
        axes.plot(*stage.series("heldout", "loss"), ".-", color=f"C{index}", label=f"{stage.label}, held out")
    axes.set(xlabel=TOKENS, ylabel="loss, nats a token (thin line: training)")
    axes.legend(frameon=False)
    return figure


def _languages(stages: Sequence[Stage]) -> Figure:
    from matplotlib import pyplot as plt

    keys = sorted({key for stage in stages for line in stage.lines for key in line if key.count("/") == 2})
    languages = sorted({key.split("/")[2] for key in keys})
    rows = -(-len(languages) // COLUMNS)
    figure, panels = plt.subplots(
        rows, COLUMNS, figsize=(10, 2 * rows), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for panel in panels.flat:
        panel.set_visible(False)
    for panel, language in zip(panels.flat, languages, strict=False):
        panel.set_visible(True)
        panel.set_title(language, loc="left")
        for index, stage in enumerate(stages):
            for key in (key for key in keys if key.endswith(f"/{language}")):
                panel.plot(*stage.series("heldout", key), ".-", color=f"C{index}", label=stage.label)
    named = dict.fromkeys(stage.label for stage in stages)
    handles = [plt.Line2D([], [], color=f"C{index}") for index in range(len(named))]
    figure.legend(handles, list(named), frameon=False, ncols=3, loc="outside upper left")
    figure.supxlabel(TOKENS)
    figure.supylabel("held-out loss, nats a token")
    return figure


def _throughput(stages: Sequence[Stage]) -> Figure:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    for index, stage in enumerate(stages):
        tokens, speed = stage.series("train", "tokens_per_second")
        axes.plot(tokens, [value / 1e3 for value in speed], color=f"C{index}", label=stage.label)
    axes.set(xlabel=TOKENS, ylabel="thousand tokens a second", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = cli.parser(__doc__ or "", epilog="Needs matplotlib: pip install megas2s[dev].")
    parser.add_argument("runs", nargs="+", metavar="run", help="folder of a run")
    parser.add_argument("--out", default="plots", help="folder for losses.png, languages.png and throughput.png")
    cli.look_first(parser, dry_run="read the runs, say what would be drawn, draw nothing")
    given = parser.parse_args()
    if given.print_config:
        cli.print_settings(given)
        return
    runs = [Path(name) for name in given.runs]
    stages = [stage for run in runs for stage in read_run(run, alone=len(runs) == 1)]
    if given.dry_run:
        for stage in stages:
            print(f"would draw {stage.label}, {len(stage.lines)} lines, to {given.out}")
        return
    for path in draw(stages, Path(given.out)):
        print(path)


if __name__ == "__main__":
    cli.run(main)
