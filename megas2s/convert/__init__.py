"""The list of families that models convert to and from."""

from megas2s.convert import mbart, roberta_prelayernorm
from megas2s.convert.names import Family

FAMILIES: tuple[Family, ...] = (roberta_prelayernorm.FAMILY, mbart.FAMILY)
