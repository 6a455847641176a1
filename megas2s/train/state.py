"""Where a stage stands: a few integers. Everything else follows from them, the seed and the recipe."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainState:
    """Counters of one stage. The data position is `step`: step s reads samples s*rows ... (s+1)*rows - 1."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # raw tokens seen, separators included, padding and added special tokens not
    skipped: int = 0  # steps that changed nothing because fp16 gradients overflowed

    def after(self, *, tokens: int, skipped: bool) -> TrainState:
        """The state once one more step is done."""
        return TrainState(self.step + 1, self.tokens + tokens, self.skipped + skipped)


def every(period: int, step: int) -> bool:
    """Whether something done every `period` steps is due after step number `step` (counted from 1)."""
    return period > 0 and step % period == 0
