"""What a run says about itself: one line on the console, the same scalars in JSONL and in TensorBoard.

Rank 0 speaks. Lines of a stage that lie after the point of resumption are removed before it goes on, so that the log
of an interrupted run equals that of an undisturbed one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from megas2s import dist, files
from megas2s.errors import DiskTrouble

log = logging.getLogger(__name__)

Scalars = dict[str, float]


def losses_from(sums: Tensor, weights: Mapping[str, float | None], languages: Sequence[str]) -> Scalars:
    """Means from (parts, languages, 2) sums over all ranks, losses in nats per item.

    `loss/part`, `loss/part/language`, and `loss`, the weighted sum of the parts that is minimised. A part without items
    says nothing, so the others are weighed up to the sum of all weights: `loss` does not dip where one part is missing.
    A measure, which has no weight, is `measure/name` and `measure/name/language`.
    """
    table = sums.tolist()
    scalars: Scalars = {"loss": 0.0}
    counted = 0.0
    for (part, weight), rows in zip(weights.items(), table, strict=True):
        name = f"measure/{part}" if weight is None else f"loss/{part}"
        total, count = (sum(column) for column in zip(*rows, strict=True))
        if count:
            scalars[name] = total / count
        if count and weight is not None:
            scalars["loss"] += weight * total / count
            counted += weight
        for language, (language_total, language_count) in zip(languages, rows, strict=True):
            if language_count:
                scalars[f"{name}/{language}"] = language_total / language_count
    scalars["loss"] *= sum(weight or 0.0 for weight in weights.values()) / counted if counted else math.nan
    return scalars


class MetricsLog:
    """The three voices of one stage of a run. On other ranks than 0 it is silent."""

    def __init__(self, run: Path, stage: str, *, resumed_at: int, tensorboard: bool) -> None:
        self._stage = stage
        self._run = run
        self._jsonl = run / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._pending = ""  # lines for the log that the disk has not taken
        self._warned: set[str] = set()
        self._speaks = dist.is_main()
        if not self._speaks:
            return
        run.mkdir(parents=True, exist_ok=True)
        drop_after(self._jsonl, stage, resumed_at)
        if tensorboard:
            self._board_folder = run / "tensorboard" / stage
            threading.excepthook = _board_fails_quietly
            with self._board_may_fail():
                self._board = SummaryWriter(str(self._board_folder), purge_step=resumed_at + 1)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Record `values` at `step`; `kind` is `train` or `heldout`."""
        if not self._speaks:
            return
        record = {"stage": self._stage, "kind": kind, "step": step, **_finite(values)}
        self._pending += json.dumps(record) + "\n"
        self._write_pending()
        self.show(kind, step, values)

    def show(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """`values` in TensorBoard alone."""
        if self._board is not None:
            with self._board_may_fail():
                for name, value in values.items():
                    self._board.add_scalar(tag(kind, name), value, step)

    def text(self, name: str, step: int, text: str) -> None:
        """Keep a text in the run's `samples` folder and show it in TensorBoard."""
        if self._speaks:
            path = self._run / "samples" / f"{self._stage}_{step:08d}.md"
            try:
                files.write_text(path, text + "\n")
            except (DiskTrouble, OSError) as error:
                self._warn(f"{path} is not written: {error}")
        if self._board is not None:
            with self._board_may_fail():
                self._board.add_text(name, text, step)

    def say(self, line: str) -> None:
        """One line on the console and in the log file."""
        if self._speaks:
            log.info("%s", line)

    def close(self) -> None:
        """Write out what is buffered; raises DiskTrouble where reports could not be written to the end."""
        if self._board is not None:
            with self._board_may_fail():
                self._board.close()
        if self._pending:
            with files.disk_trouble(self._jsonl), open(self._jsonl, "a", encoding="utf-8") as file:
                file.write(self._pending)

    def _write_pending(self) -> None:
        """Add what is not in the log yet; a disk that does not take it now is asked again with the next report."""
        size = self._jsonl.stat().st_size if self._jsonl.exists() else 0
        try:
            with open(self._jsonl, "a", encoding="utf-8") as file:
                file.write(self._pending)
            self._pending = ""
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._jsonl, size)  # without the part of a line that found room
            self._warn(f"{self._jsonl} does not take reports ({error.strerror}); they are kept and tried again")

    @contextlib.contextmanager
    def _board_may_fail(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._board = None
            self._warn(f"TensorBoard's files are not written any more ({error}); metrics.jsonl has the same numbers")

    def _warn(self, sentence: str) -> None:
        """Say a trouble of the log once: training goes on, and would say it at every report."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning("%s", sentence)


def tag(kind: str, name: str) -> str:
    """The name of a scalar in TensorBoard, which makes a section of what stands before the first slash.

    Values of single languages have one of their own: a hundred languages would hide the dozen that people look at.
    """
    return f"{kind}_languages/{name}" if name.count("/") == 2 else f"{kind}/{name}"


def _board_fails_quietly(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands its error on to the next call; a traceback beside it would tell it twice."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)


def drop_after(path: Path, stage: str, step: int) -> None:
    """Remove from a JSONL log the lines of `stage` after `step`, and a last line that a crash cut short."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("stage") != stage or record.get("step", 0) <= step:
            kept.append(line)
    files.write_text(path, "".join(line + "\n" for line in kept))


def console_line(stage: str, step: int, steps: int, values: Mapping[str, float]) -> str:
    """One event as a person reads it: `mlm 1200/50000 | loss 3.214 | lr 3.0e-04 | 182k tok/s | ... | ETA 3h12m`."""
    fields = [f"{stage} {step}/{steps}", f"loss {values['loss']:.4f}"]
    parts = [name for name in values if name.startswith("loss/") and name.count("/") == 1]
    if len(parts) > 1:
        fields += [f"{name.removeprefix('loss/')} {values[name]:.4f}" for name in parts]
    fields += [f"lr {values['lr']:.2e}", f"gnorm {values['grad_norm']:.3f}"]
    fields += [f"{_thousands(values['tokens_per_second'])} tok/s", f"{values['tflops']:.3g} TFLOP/s"]
    fields.append(f"MFU {values['mfu']:.1%}" if "mfu" in values else "MFU n/a")
    fields.append(f"mem {values['memory_gib']:.2f} GiB")
    fields.append(f"data {values['data_wait']:.1%}")
    if values.get("skipped"):
        fields.append(f"skipped {values['skipped']:.0f}")
    fields.append(f"ETA {duration(values['eta_seconds'])}")
    return " | ".join(fields)


def duration(seconds: float) -> str:
    """`42s`, `3m05s`, `3h12m`, `2d04h`; `?` where it is not known."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    for unit, smaller, size, part in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def _thousands(value: float) -> str:
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _finite(values: Mapping[str, float]) -> dict[str, float | str]:
    """The same values, those that JSON has no number for as text: `nan`, `inf`."""
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
