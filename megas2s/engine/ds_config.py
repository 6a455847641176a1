"""DeepSpeed's configuration: the user's knobs from `ds_configs/*.json`, and what the recipe decides.

A file in `ds_configs/` holds only what DeepSpeed alone understands (ZeRO stage, buckets, overlap, offload). Batch,
precision and clipping belong to the recipe; a key that the recipe owns is refused in the file, so that nothing is
stated twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megas2s.errors import BadConfig

OWNED = {
    "train_batch_size": "batch_tokens",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "batch_tokens and micro_batch",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "gradient_clipping": "optimizer.grad_clip",
    "bf16": "precision",
    "bfloat16": "precision",
    "fp16": "precision",
    "steps_per_print": "log.every",
}


def read_ds_config(path: str, *, precision: str = "bf16") -> dict[str, Any]:
    """The knobs in `path`; raises BadConfig for a missing file, bad JSON or what cannot work with the recipe."""
    try:
        knobs = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"no DeepSpeed configuration at {path}; ds_configs/ holds the shipped ones") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not valid JSON: {error}") from None
    if not isinstance(knobs, dict):
        raise BadConfig(f"{path} must hold one JSON object, found {type(knobs).__name__}")
    for key, owner in OWNED.items():
        if key in knobs:
            raise BadConfig(f"{path}: {key!r} is stated by the recipe ({owner}); remove it from the file")
    if "pipeline" in knobs and zero_stage(knobs) >= 2:
        raise BadConfig(
            f"{path}: ZeRO-{zero_stage(knobs)} cannot run in a pipeline; use ZeRO-1 there or remove 'pipeline'"
        )
    if precision == "fp16" and zero_stage(knobs) == 0:
        # DeepSpeed 0.19.8 divides the gradients of ZeRO-0 by a loss scale that it never multiplied the loss with.
        raise BadConfig(f"{path}: fp16 does not train under ZeRO-0; use ds_configs/zero1.json, or precision: bf16")
    return knobs


def zero_stage(knobs: dict[str, Any]) -> int:
    """The ZeRO stage that the knobs ask for."""
    return int(knobs.get("zero_optimization", {}).get("stage", 0))


def offloads_optimizer(knobs: dict[str, Any]) -> bool:
    """Whether optimizer state lives in host memory or on NVMe."""
    device = knobs.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")
    return str(device) != "none"


def compose(
    knobs: dict[str, Any], *, precision: str, grad_clip: float, micro_batch: int, micro_batches: int, world_size: int
) -> dict[str, Any]:
    """What `deepspeed.initialize` receives: the user's knobs and the recipe's decisions."""
    config = {
        **knobs,
        "train_batch_size": micro_batch * micro_batches * world_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": grad_clip,
        "steps_per_print": 1 << 62,  # our own loop speaks
        "zero_allow_untested_optimizer": True,  # torch's AdamW; equality with the local engine is tested
    }
    if precision == "bf16":
        config["bf16"] = {"enabled": True}
    elif precision == "fp16":
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "min_loss_scale": 1}
    return config
