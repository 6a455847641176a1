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
from megas2s.spec import nearest

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
    "amp": "precision",
    "torch_autocast": "precision",
    "steps_per_print": "log.every",
    "zero_allow_untested_optimizer": "optimizer",
    "activation_checkpointing": "activation_checkpointing",
    "compile": "compile",
    "pipeline": "engine.stages",
}

# What a file may say, in DeepSpeed's own names. It passes over a key that it does not know; one inside
# zero_optimization it refuses, but only in a launch.
GROUPS = {
    "zero_optimization": """
        stage offload_optimizer offload_param overlap_comm contiguous_gradients round_robin_gradients
        reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce
        allgather_partitions allgather_bucket_size parameter_alignment sub_group_size
        stage3_prefetch_bucket_size stage3_max_live_parameters stage3_max_reuse_distance
        stage3_param_persistence_threshold stage3_model_persistence_threshold stage3_module_granularity_threshold
        stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential stage3_gather_16bit_weights_on_model_save
        zero_hpz_partition_size zero_quantized_weights zero_quantized_nontrainable_weights zero_quantized_gradients
        ignore_unused_parameters load_from_fp32_weights memory_efficient_linear override_module_apply leaf_module
        enable_sanity_checks log_trace_cache_warnings
    """,
    "data_types": "grad_accum_dtype param_dtype buffer_dtype keep_in_fp32_modules",
    "aio": "block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds",
}
KNOBS = (
    *GROUPS,
    "comms_logger",
    "communication_data_type",
    "disable_python_gc",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "log_level",
    "memory_breakdown",
    "prescale_gradients",
    "timers",
    "wall_clock_breakdown",
    "zero_force_ds_cpu_optimizer",
)
DTYPES = ("fp32", "fp16", "bf16")  # of grad_accum_dtype; DeepSpeed takes other spellings that a plan does not read
SIZES = ("reduce_bucket_size", "stage3_max_live_parameters", "sub_group_size")  # read by a plan


def read_ds_config(path: str, *, precision: str = "bf16") -> dict[str, Any]:
    """The knobs in `path`; raises BadConfig for a missing file, bad JSON or what cannot work with the recipe."""
    try:
        knobs = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadConfig(f"no DeepSpeed configuration at {path}; ds_configs/ holds the shipped ones") from None
    except OSError as error:
        raise BadConfig(f"{path} cannot be read ({error.strerror}); ds_configs/ holds the shipped files") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not valid JSON: {error}") from None
    if not isinstance(knobs, dict):
        raise BadConfig(f"{path} must hold one JSON object, found {type(knobs).__name__}")
    _check_keys(path, knobs)
    _check_sums(path, knobs.get("data_types", {}).get("grad_accum_dtype"))
    _check_zero(path, knobs.get("zero_optimization", {}))
    if precision == "fp16" and zero_stage(knobs) == 0:
        # DeepSpeed 0.19.8 divides the gradients of ZeRO-0 by a loss scale that it never multiplied the loss with.
        raise BadConfig(f"{path}: fp16 does not train under ZeRO-0; use ds_configs/zero1.json, or precision: bf16")
    return knobs


def check_pipeline(path: str, *, precision: str) -> dict[str, Any]:
    """The knobs in `path` for a pipeline; raises BadConfig for what cannot run in one."""
    if precision == "fp16":
        raise BadConfig("engine 'pipe' has no loss scaling for fp16; use precision: bf16, or engine: {name: zero}")
    knobs = read_ds_config(path, precision=precision)
    if zero_stage(knobs) != 1:
        # ZeRO-2 and 3 scatter gradients that a pipeline adds up; under ZeRO-0 each part would clip by its own norm.
        raise BadConfig(
            f"{path}: a pipeline runs under ZeRO-1, found ZeRO-{zero_stage(knobs)}; use ds_configs/pipeline.json, or "
            "engine: {name: zero}"
        )
    if offloads_optimizer(knobs):
        raise BadConfig(f"{path}: a pipeline keeps optimizer state on its devices; remove offload_optimizer")
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


def _check_keys(path: str, knobs: dict[str, Any]) -> None:
    for key, value in knobs.items():
        if key in OWNED:
            raise BadConfig(f"{path}: {key!r} is stated by the recipe ({OWNED[key]}); remove it from the file")
        if key not in KNOBS:
            raise BadConfig(f"{path}: {key!r} is no knob that is read from here; {nearest(key, KNOBS)}")
        if key in GROUPS:
            if not isinstance(value, dict):
                raise BadConfig(f"{path}: {key} must be an object of keys and values, found {value!r}")
            known = GROUPS[key].split()
            for inner in value:
                if inner not in known:
                    raise BadConfig(f"{path}: {key}.{inner}: unknown key; {nearest(inner, known)}")


def _check_sums(path: str, dtype: object) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise BadConfig(f"{path}: data_types.grad_accum_dtype is one of {', '.join(DTYPES)}, found {dtype!r}")


def _check_zero(path: str, zero: dict[str, Any]) -> None:
    """Check the values that are read without DeepSpeed; it checks the others itself."""
    if zero.get("stage", 0) not in (0, 1, 2, 3):
        raise BadConfig(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3, found {zero['stage']!r}")
    for key in ("offload_optimizer", "offload_param"):
        if not isinstance(zero.get(key, {}), dict):
            raise BadConfig(
                f'{path}: zero_optimization.{key} is an object such as {{"device": "cpu"}}, found {zero[key]!r}'
            )
    for key in SIZES:
        if not isinstance(zero.get(key, 0), int | float):
            raise BadConfig(f"{path}: zero_optimization.{key} is a number of elements, found {zero[key]!r}")
