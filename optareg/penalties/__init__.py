"""What is penalised: one small class a penalty, and the combinators."""

from optareg.penalties._base import Norm, Penalty, register_penalty, static
from optareg.penalties._choice import by_path
from optareg.penalties._combinators import masked, partition
from optareg.penalties._elementwise import L1, L2, ElasticNet
from optareg.penalties._groups import GroupLasso, SparseGroupLasso
from optareg.penalties._joined import joined
from optareg.penalties._nonconvex import MCP, SCAD

__all__ = [
    "L1",
    "L2",
    "ElasticNet",
    "GroupLasso",
    "SparseGroupLasso",
    "MCP",
    "SCAD",
    "Norm",
    "Penalty",
    "by_path",
    "masked",
    "partition",
    "joined",
    "register_penalty",
    "static",
]
