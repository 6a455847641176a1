"""What the model will see: raw text, corrupted text and target of a few samples, language shares, and fill.

python tools/inspect_batch.py launch/recipes/sample.yaml
python tools/inspect_batch.py launch/recipes/sample.yaml --stage seq2seq --step 1000 --rows 8 --characters 200
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from megas2s import cli

if TYPE_CHECKING:
    from megas2s.recipe import Recipe
    from megas2s.tokenizer.load import Tokenizer
    from megas2s.train.assemble import StageData
    from megas2s.train.stage import Stage


def arguments() -> argparse.Namespace:
    parser = cli.recipe_parser(
        __doc__ or "", dry_run="load and check everything, say what would be shown, read no samples"
    )
    add = parser.add_argument
    add("--stage", help="name of the stage; the first where absent")
    add("--step", type=int, default=0, help="optimizer step whose first rows are shown")
    add("--rows", type=int, default=4, help="how many samples to show")
    add("--characters", type=int, default=400, help="of each text, at most")
    add("--fill-samples", type=int, default=256, help="samples from which the fill is measured")
    return parser.parse_intermixed_args()


def main() -> int:
    asked = arguments()
    from pathlib import Path

    from megas2s.data.corpus import Corpus
    from megas2s.errors import BadConfig
    from megas2s.prepare import model_config
    from megas2s.recipe import dump_recipe, load_recipe
    from megas2s.spec import nearest
    from megas2s.tokenizer.load import Tokenizer
    from megas2s.train.assemble import check_tokenizer, stage_data

    recipe = load_recipe(asked.recipe, asked.overrides)
    if asked.print_config:
        print(dump_recipe(recipe), end="")
        return 0
    names = [stage.name for stage in recipe.stages]
    if asked.stage is not None and asked.stage not in names:
        raise BadConfig(f"--stage {asked.stage!r}: the recipe has no such stage; {nearest(asked.stage, names)}")
    for name in ("rows", "characters", "fill_samples"):
        if getattr(asked, name) < 1:
            raise BadConfig(f"--{name.replace('_', '-')} must be at least 1, got {getattr(asked, name)}")
    if asked.step < 0:
        raise BadConfig(f"--step must not be negative, got {asked.step}")
    stage = recipe.stage(asked.stage or names[0])
    corpus = Corpus.open(Path(recipe.corpus))
    tokenizer = Tokenizer.load(corpus.tokenizer_folder)
    check_tokenizer(corpus, tokenizer.vocabulary)
    config = model_config(recipe, stage, tokenizer.vocabulary)
    data = stage_data(
        stage, corpus, tokenizer.vocabulary, recipe.sampling, seed=recipe.seed, decoder_start=config.decoder_start
    )
    first = asked.step * stage.rows
    if asked.dry_run:
        print(f"would show samples {first:,} to {first + asked.rows - 1:,} of stage {stage.name}")
        return 0
    print(describe(stage, data, first=first, samples=asked.fill_samples))
    print(shares(recipe, stage, data))
    print(examples(data, tokenizer, corpus.languages, range(first, first + asked.rows), asked.characters))
    return 0


def describe(stage: Stage, data: StageData, *, first: int, samples: int) -> str:
    """The stage's rows and how full they are."""
    from megas2s.objectives.preview import fill

    found = fill([data.samples.example(number)[0] for number in range(first, first + samples)], data.columns)
    target = f" and {data.columns.target} target" if data.columns.target else ""
    return (
        f"stage {stage.name}: objective {stage.objective.name}, {stage.rows} rows a step from windows of"
        f" {data.window} tokens\n"
        f"{data.columns.source} source{target} columns, {'all full' if data.columns.full else 'padded'};"
        f" fill of {samples} samples: source {found.source:.1%}, labels {found.labels:.1%}\n"
    )


def shares(recipe: Recipe, stage: Stage, data: StageData) -> str:
    """A table of the units: share of the corpus, share of the samples, and how often each is read in the stage."""
    epochs = data.samples.mixture.epochs(stage.rows * stage.total_steps)
    tokens, whole = sum(unit.tokens for unit in data.units), sum(data.shares)
    name = max(len("language/source"), *(len(unit.name) for unit in data.units))
    lines = [f"{'language/source':<{name}} {'tokens':>16} {'of corpus':>10} {'of samples':>11} {'epochs':>9}"]
    for unit, share, passes in zip(data.units, data.shares, epochs, strict=True):
        percent = f"{unit.tokens / tokens:>10.2%} {share / whole:>11.2%}"
        lines.append(f"{unit.name:<{name}} {unit.tokens:>16,} {percent} {passes:>9.2f}")
    return "\n".join([*lines, f"alpha {recipe.sampling.alpha}, epochs over {stage.total_steps:,} steps\n"])


def examples(data: StageData, tokenizer: Tokenizer, languages: tuple[str, ...], numbers: range, characters: int) -> str:
    """The samples of these numbers, as text."""
    from megas2s.objectives.preview import preview

    shown = []
    for number in numbers:
        example, language = data.samples.example(number)
        text = preview(
            data.samples.window(number),
            example,
            lambda ids: tokenizer.decode(ids, specials=True),
            characters=characters,
        )
        shown.append(f"sample {number} ({languages[language]})\n{text}")
    return "\n".join(shown)


if __name__ == "__main__":
    cli.run(main)
