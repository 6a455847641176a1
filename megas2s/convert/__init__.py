"""The list of families that models convert to and from."""

from megas2s.convert import bart, bert, roberta, t5, unilm
from megas2s.convert.names import Family, Part
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.spec import nearest
from megas2s.tokenizer.vocab import Vocabulary

FAMILIES: tuple[Family, ...] = (
    roberta.PRE_LAYER_NORM,
    roberta.ROBERTA,
    roberta.XLM_ROBERTA,
    bert.BERT,
    bert.ELECTRA,
    unilm.UNILM,
    bart.MBART,
    bart.BART,
    t5.T5,
    t5.MT5,
    t5.T5_ENCODER,
    t5.MT5_ENCODER,
)


def family_of(config: ModelConfig, part: Part, vocabulary: Vocabulary) -> Family:
    """The family that a model of ours is exported as: the one its configuration names, else the first that it can be.

    `config` is of the part: an encoder's for "encoder". The encoder of a model whose family has none by itself (BART's,
    say) takes the first that it can be. Raises BadConfig where no family can.
    """
    if config.family is not None and config.family not in (known := {family.model_type for family in FAMILIES}):
        raise BadConfig(f"no family is called {config.family!r}; {nearest(config.family, known)}")
    if why := next((family.no_class for family in FAMILIES if family.model_type == config.family), ""):
        raise BadConfig(why)
    candidates = [family for family in FAMILIES if family.part == part and not family.no_class]
    candidates.sort(key=lambda family: family.model_type != config.family)  # stable: else the order of the list
    refusals = [family.refusal(config, vocabulary) for family in candidates]
    if candidates[0].model_type == config.family and refusals[0] is not None:
        raise BadConfig(f"{refusals[0]}; change that, or remove family: {config.family}")
    reasons = []
    for family, refusal in zip(candidates, refusals, strict=True):
        if refusal is None:
            return family
        reasons.append(refusal)
    closest = min(reasons, key=lambda refusal: len(refusal.reasons))
    raise BadConfig(f"no family of transformers is such a model, and what is trained is to be exported: {closest}")
