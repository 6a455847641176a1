"""The list of objectives: what a recipe's `objective` may be, told apart by its `name`."""

from typing import Annotated

from pydantic import Discriminator

from megas2s.objectives.clm import CLM
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.e2s2 import E2S2
from megas2s.objectives.mass import MASS
from megas2s.objectives.mixture import ObjectiveMixture
from megas2s.objectives.mlm import MLM
from megas2s.objectives.span_corruption import SpanCorruption

Objective = Annotated[
    MLM | Denoising | SpanCorruption | MASS | CLM | E2S2 | ObjectiveMixture,
    Discriminator("name"),
]
