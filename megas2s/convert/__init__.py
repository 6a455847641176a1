"""The list of families that models convert to and from."""

from megas2s.convert import mbart, roberta_prelayernorm
from megas2s.convert.names import Family, Part

FAMILIES: tuple[Family, ...] = (roberta_prelayernorm.FAMILY, mbart.FAMILY)


def family_of(part: Part) -> Family:
    """The family that an encoder, or an encoder-decoder, of ours is exported as."""
    return next(family for family in FAMILIES if family.part == part)
