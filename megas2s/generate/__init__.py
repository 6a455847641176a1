"""Writing with weights that were taught to: a library, and what `launch/decode.py` runs.

from megas2s import generate

model = generate.load("runs/summaries")              # a run, a stage, a checkpoint, weights, or an exported folder
for found in model.write(["A long text ..."], generate.Decoding(beams=5, n_best=2)):
    print(found[0].text, found[0].score)
"""

from megas2s.generate.model import Answer, Model, load
from megas2s.generate.settings import Decoding

__all__ = ["Answer", "Decoding", "Model", "load"]
