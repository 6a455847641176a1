"""DeepSpeed's own profilers around one step: the FLOPs of each module, and every collective with its bytes.

    log.profile=20        runs/x/profile/mlm-flops.txt, runs/x/profile/mlm-communication.json

Both slow the step that they watch, so they are on for that step alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import deepspeed
from deepspeed.comm.comm import comms_logger
from deepspeed.profiling.flops_profiler import FlopsProfiler
from torch import nn

from megas2s import files
from megas2s.engine.base import Profile


@contextlib.contextmanager
def profiled(profile: Profile | None, step: int, module: nn.Module, *, writes: bool, part: str = "") -> Iterator[None]:
    """Look at the step where it is the one to be looked at; ranks that `writes` leave two files.

    FLOPs are those of the forward passes, recomputed layers counted twice; bytes are of DeepSpeed's collectives on this
    rank, as it hands them over, whatever the network makes of them.
    """
    if profile is None or step + 1 != profile.step:  # steps are told from 1 on
        yield
        return
    profiler = FlopsProfiler(module)
    profiler.start_profile()
    comms_logger.comms_dict.clear()
    deepspeed.comm.configure(enabled=True, prof_all=True, verbose=False)
    try:
        yield
    finally:
        deepspeed.comm.configure(enabled=False)
        profiler.stop_profile()
    if writes:
        files.make_folder(profile.folder)
        head = f"{profile.folder / profile.name}{part}"
        profiler.print_model_profile(profile_step=profile.step, output_file=f"{head}-flops.txt")
        said = {"step": profile.step, "collectives": collectives()}
        files.write_json(Path(f"{head}-communication.json"), said)
    profiler.end_profile()


def collectives() -> list[dict[str, object]]:
    """What has been logged: per kind and size, how often, and the bytes of all."""
    found = []
    for name, sizes in sorted(comms_logger.comms_dict.items()):
        for size, (count, milliseconds, *_) in sorted(sizes.items()):
            facts = {"collective": name, "bytes": size, "count": count, "total_bytes": size * count}
            found.append({**facts, "milliseconds": sum(milliseconds)})
    return found
