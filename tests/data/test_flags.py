"""The flags for text say what `Inputs` says."""

from __future__ import annotations

import argparse

from megas2s.data import flags
from megas2s.data.inputs import Inputs
from megas2s.spec import parse


def test_without_flags_text_is_read_as_inputs_reads_it():
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group("text")
    flags.add_dataset_flags(group)
    flags.add_reading_flags(group)
    given = parser.parse_args([])
    settings = {**flags.dataset(given), **flags.reading(given), "paths": ["text"]}
    assert parse(Inputs, settings, source="flags") == Inputs(paths=("text",))
