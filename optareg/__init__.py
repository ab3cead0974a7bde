"""L1, L2 and Elastic Net for any Optax optimizer, with exact zeros."""

from optareg.inspect import LeafSummary, Summary, sparsity, summarize
from optareg.penalties import (
    L1,
    L2,
    ElasticNet,
    Norm,
    Penalty,
    by_path,
    masked,
    partition,
    register_penalty,
    static,
)
from optareg.transforms import (
    ProximalState,
    add_penalty_gradient,
    proximal,
    proximal_step,
)

__version__ = "0.1.0"

__all__ = [
    "L1",
    "L2",
    "ElasticNet",
    "masked",
    "partition",
    "by_path",
    "add_penalty_gradient",
    "proximal_step",
    "proximal",
    "sparsity",
    "summarize",
    "ProximalState",
    "Summary",
    "LeafSummary",
    "Penalty",
    "Norm",
    "register_penalty",
    "static",
]
