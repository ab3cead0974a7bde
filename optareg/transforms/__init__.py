"""How a penalty is applied: one function a way, each in a file of its own."""

from optareg.transforms._freeze import freeze_zeros
from optareg.transforms._gradient import add_penalty_gradient
from optareg.transforms._proximal import ProximalState, proximal
from optareg.transforms._step import proximal_step
from optareg.transforms._target import TargetSparsityState, target_sparsity

__all__ = [
    "ProximalState",
    "TargetSparsityState",
    "add_penalty_gradient",
    "freeze_zeros",
    "proximal",
    "proximal_step",
    "target_sparsity",
]
