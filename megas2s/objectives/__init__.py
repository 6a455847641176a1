"""The list of objectives: what a recipe's `objective` may be, told apart by its `name`."""

from typing import Annotated

from pydantic import Discriminator

from megas2s.objectives.e2s2 import E2S2
from megas2s.objectives.mixture import ObjectiveMixture, Reconstruction
from megas2s.objectives.mlm import MLM

Objective = Annotated[MLM | Reconstruction | E2S2 | ObjectiveMixture, Discriminator("name")]
