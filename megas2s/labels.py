"""The label that carries no loss, as in torch.nn.functional.cross_entropy."""

IGNORED = -100
