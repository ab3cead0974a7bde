"""What is penalised: one small class a penalty, and the combinators."""

from optareg.penalties.base import Norm, Penalty, register_penalty, static
from optareg.penalties.combinators import by_path, masked, partition
from optareg.penalties.elementwise import L1, L2, ElasticNet

__all__ = [
    "L1",
    "L2",
    "ElasticNet",
    "Norm",
    "Penalty",
    "by_path",
    "masked",
    "partition",
    "register_penalty",
    "static",
]
