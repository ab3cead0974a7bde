"""L1, L2 and Elastic Net for any Optax optimizer, with exact zeros.

A penalty says what is penalised: `L1`, `L2`, `ElasticNet`, `GroupLasso`, `MCP` and so
on. `masked`, `partition` and `joined` choose the parameters. A transformation says how
the penalty is applied: `add_penalty_gradient` (the textbook update), `proximal_step`
(last in a chain), `proximal` (around any optimizer), `target_sparsity` (for a share of
zeros in place of a strength). Each takes every penalty. `minimize` and `path` solve a
whole problem at once, to a tolerance. `sparsity`, `stationarity` and `summarize` show
the result. `freeze_zeros` and `compact` make use of its zeros. `optareg.plot` draws.

`optareg.penalties` has what you need to write a penalty of your own.
"""

from optareg import _ctrl_c  # noqa: F401

# isort: split
from optareg import penalties
from optareg._compact import compact
from optareg._inspect import (
    LeafSummary,
    Summary,
    sparsity,
    summarize,
)
from optareg._low_rank import LowRank, low_rank
from optareg._stationarity import stationarity
from optareg.penalties import (
    L1,
    L2,
    MCP,
    SCAD,
    ElasticNet,
    GroupLasso,
    NuclearNorm,
    Penalty,
    SparseGroupLasso,
    TotalVariation,
    by_path,
    centered,
    constraint,
    joined,
    masked,
    partition,
)
from optareg.solve import (
    Choice,
    Solution,
    choose_strength,
    clear_programs,
    max_strength,
    minimize,
    path,
    strength_grid,
)
from optareg.transforms import (
    ProximalState,
    TargetSparsityState,
    add_penalty_gradient,
    freeze_zeros,
    proximal,
    proximal_step,
    target_sparsity,
)

__version__ = "0.1.0"

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
    "masked",
    "partition",
    "joined",
    "by_path",
    "add_penalty_gradient",
    "proximal_step",
    "proximal",
    "target_sparsity",
    "freeze_zeros",
    "compact",
    "low_rank",
    "minimize",
    "path",
    "max_strength",
    "clear_programs",
    "strength_grid",
    "choose_strength",
    "stationarity",
    "sparsity",
    "summarize",
    "Penalty",
    "ProximalState",
    "TargetSparsityState",
    "Solution",
    "Choice",
    "Summary",
    "LeafSummary",
    "LowRank",
    "penalties",
]
