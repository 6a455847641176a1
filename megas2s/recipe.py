"""A recipe: one YAML file that describes a whole experiment, in the order things happen.

    recipe = load_recipe("launch/recipes/two_stage.yaml", ["seed=3", "stages.mlm.steps=100"])

This module only composes the specifications that live beside the code that reads them, and checks what no
single one can see. Derived values are properties; nothing is written into a recipe after it is loaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from megas2s.data.mixture import Sampling
from megas2s.engine import pipe_stages
from megas2s.errors import BadConfig
from megas2s.models.config import Activation, FirstToken, ModelConfig, Tying
from megas2s.models.parts import unit_count
from megas2s.models.presets import preset
from megas2s.models.weights import open_weights
from megas2s.spec import nearest, parse, plain, read_yaml, spec
from megas2s.train.placement import check_parts
from megas2s.train.stage import Checkpoints, Log, Stage, check_patience
from megas2s.train.watchdog import Watch


@spec
class ModelChoice:
    """The shape of the encoder and of the decoder that a stage may attach: a preset, or the shape of weights that are
    there, single values replaced at will. What the values mean, `models.config.ModelConfig` says."""

    preset: str | None = None
    like: str | None = None  # a folder of weights, for example imported ones
    vocab_size: int | None = None  # rows of the embedding table, where it has more than the tokenizer has ids
    hidden_size: int | None = None
    num_heads: int | None = None
    head_size: int | None = None
    ffn_size: int | None = None
    num_encoder_layers: int | None = None
    num_decoder_layers: int | None = None
    max_positions: int | None = None
    embedding_size: int | None = None
    segment_types: int | None = None
    family: str | None = None
    activation: Activation | None = None
    gated: bool | None = None
    biases: bool | None = None
    norm: Literal["layer", "rms"] | None = None
    norm_position: Literal["pre", "post"] | None = None
    norm_epsilon: float | None = None
    embed_norm: bool | None = None
    positions: Literal["learned", "relative", "both"] | None = None
    relative_buckets: int | None = None
    relative_max_distance: int | None = None
    scale_embedding: bool | None = None
    scale_attention: bool | None = None
    scale_head: bool | None = None
    decoder_start: FirstToken | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    ffn_dropout: float | None = None
    output_dropout: float | None = None
    init: Literal["normal", "fan_in"] | None = None
    init_std: float | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.like is not None:
            raise ValueError("state either preset or like")
        if self.preset is not None:
            preset(self.preset, vocab_size=1)  # names the nearest one where there is none

    @property
    def tying(self) -> Tying:
        """Which embedding matrices are one where no stage says so."""
        base = self._base()
        return "tied" if base is None else base.tying

    def config(self, *, vocab_size: int, pad_id: int, tying: Tying) -> ModelConfig:
        """The full shape, decoder included, for a vocabulary."""
        base = self._base()
        values = {} if base is None else dataclasses.asdict(base)
        values |= {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("preset", "like") and getattr(self, field.name) is not None
        }
        rows = self.vocab_size or (values["vocab_size"] if self.like is not None else vocab_size)
        if rows < vocab_size:
            raise BadConfig(
                f"model: vocab_size is {rows}, but the tokenizer has {vocab_size} ids; give it that many or more"
            )
        values |= {"vocab_size": rows, "pad_id": pad_id, "tying": tying}
        config: ModelConfig = parse(ModelConfig, values, source="model")
        return config

    def _base(self) -> ModelConfig | None:
        if self.like is not None:
            return open_weights(Path(self.like)).config
        return None if self.preset is None else preset(self.preset, vocab_size=1)


@spec
class Recipe:
    """A whole experiment."""

    run: str  # folder of the run
    seed: int = 17
    corpus: str  # folder written by tools/preprocess.py
    verify_corpus: bool = True  # hash every shard before the first step; reads all of it, once per run
    ranks: int | None = None  # where given, the number of processes the launcher must have started
    model: ModelChoice
    sampling: Sampling = Sampling()
    patience: float = 1800.0  # seconds without an answer from the other ranks after which one gives up
    watch: Watch = Watch()  # how long training may take to get further
    workers: int = 1  # loader processes per rank; 0 loads in the training process
    trial_step: bool = True  # try one step that leaves no trace before each stage, so that too large a model fails soon
    log: Log = Log()
    checkpoints: Checkpoints = Checkpoints()
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a recipe needs at least one stage")
        names = [stage.name for stage in self.stages]
        for index, stage in enumerate(self.stages):
            if stage.name in names[:index]:
                raise ValueError(f"two stages are named {stage.name!r}")
            if stage.init in names[index:]:
                raise ValueError(f"stage {stage.name!r} starts from {stage.init!r}, which does not come before it")
            # A path may lead to weights that are not there yet; that is refused when they are to be read.
            if stage.init is not None and stage.init not in names and len(Path(stage.init).parts) == 1:
                raise ValueError(
                    f"stage {stage.name!r}: init {stage.init!r} is neither an earlier stage nor a folder of weights; "
                    f"{nearest(stage.init, names[:index]) if index else 'give a folder'}"
                )
        check_patience(self.patience)
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def folder(self, stage: Stage) -> Path:
        """Where a stage keeps its checkpoints, weights and logs."""
        return Path(self.run) / stage.name

    @property
    def fewest_ranks(self) -> int:
        """Of which every stage's pipeline takes a whole share."""
        return math.lcm(*(pipe_stages(stage.engine) for stage in self.stages))

    def check_ranks(self, world_size: int) -> None:
        """Refuse a launch whose number of processes does not fit; called before anything is built."""
        if self.ranks is not None and self.ranks != world_size:
            raise BadConfig(
                f"the recipe says ranks: {self.ranks}, but {world_size} were started; "
                "a hostfile that was not found makes deepspeed fall back to the local machine"
            )
        for stage in self.stages:
            self._check_parts(stage)
            stage.micro_batch_rows(stage.data_ranks(world_size))

    def _check_parts(self, stage: Stage) -> None:
        """Refuse a pipeline of more parts than the model has layers and a head; to count them takes no vocabulary."""
        if (parts := pipe_stages(stage.engine)) == 1:
            return
        whole = self.model.config(vocab_size=1, pad_id=0, tying=self.model.tying)
        try:
            check_parts(parts, unit_count(stage.objective.shaped(whole)))
        except ValueError as error:
            raise BadConfig(f"stage {stage.name!r}: {error}") from None


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with dotted `key=value` overrides; raises BadConfig with one line per mistake."""
    recipe: Recipe = parse(Recipe, read_overridden(path, overrides), source=str(path))
    return recipe


def read_overridden(
    path: str | Path, overrides: Sequence[str], *, shipped_in: str = "launch/recipes"
) -> dict[str, Any]:
    """The plain data of a recipe's file with dotted `key=value` overrides; where it is missing, others are named."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        shipped = sorted(recipe.name for recipe in Path(shipped_in).glob("*.yaml"))
        hint = f"; {shipped_in}/ holds {', '.join(shipped)}" if shipped else ""
        raise BadConfig(f"no recipe at {path}{hint}") from None
    except OSError as error:
        raise BadConfig(f"{path} cannot be read ({error.strerror}); give the YAML file of a recipe") from None
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path} is not valid YAML: {error}") from None
    data = read_yaml(text, source=str(path))
    if not isinstance(data, dict):
        raise BadConfig(f"{path} must be a mapping of keys to values, found {type(data).__name__}")
    data = dict(_unshared(data))
    for override in overrides:
        _override(data, override)
    return data


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default spelt out, loadable again."""
    return yaml.safe_dump(plain(Recipe, recipe), sort_keys=False, allow_unicode=True)


def _unshared(value: Any) -> Any:
    """A copy in which no two places are one object, as YAML makes them of an anchor: an override is for one place."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _override(data: dict[str, Any], text: str) -> None:
    """Apply `a.b.0.c=value` in place; stages may be named instead of numbered."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise BadConfig(f"override {text!r} is not of the form key=value")
    *parents, last = path.split(".")
    here: Any = data
    for position, key in enumerate(parents):
        here = _descend(here, key, ".".join(parents[: position + 1]))
    parsed = read_yaml(value, source=f"override {text!r}: the value")
    if isinstance(here, list):
        here[_index(here, last, path)] = parsed
    else:
        here[last] = parsed


def _descend(here: Any, key: str, path: str) -> Any:
    if isinstance(here, list):
        inner = here[_index(here, key, path)]
    else:
        if here.get(key) is None:
            here[key] = {}
        inner = here[key]
    if not isinstance(inner, dict | list):
        raise BadConfig(f"override {path}: {key!r} holds the value {inner!r}, not a group of keys")
    return inner


def _index(items: list[Any], key: str, path: str) -> int:
    names = [str(item.get("name")) if isinstance(item, dict) else "" for item in items]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise BadConfig(f"override {path}: no item {key!r}; {nearest(key, [name for name in names if name])}")
