"""What is penalised: a small class for each penalty, and the combinators."""

from optareg.penalties._base import Penalty, data, register_penalty, static
from optareg.penalties._centered import centered
from optareg.penalties._choice import by_path
from optareg.penalties._combinators import masked, partition
from optareg.penalties._constraint import constraint
from optareg.penalties._elastic_net import ElasticNet
from optareg.penalties._groups import GroupLasso, SparseGroupLasso
from optareg.penalties._joined import joined
from optareg.penalties._l1 import L1
from optareg.penalties._l2 import L2
from optareg.penalties._nonconvex import MCP, SCAD
from optareg.penalties._norm import Norm
from optareg.penalties._nuclear_norm import NuclearNorm
from optareg.penalties._total_variation import TotalVariation

__all__ = [
    "L1",
    "L2",
    "ElasticNet",
    "GroupLasso",
    "SparseGroupLasso",
    "MCP",
    "SCAD",
    "TotalVariation",
    "NuclearNorm",
    "constraint",
    "centered",
    "Norm",
    "Penalty",
    "by_path",
    "masked",
    "partition",
    "joined",
    "register_penalty",
    "static",
    "data",
]
