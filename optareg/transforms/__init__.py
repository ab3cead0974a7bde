"""How a penalty is applied: one function a way, each in a file of its own."""

from optareg.transforms.freeze import freeze_zeros
from optareg.transforms.gradient import add_penalty_gradient
from optareg.transforms.proximal import ProximalState, proximal
from optareg.transforms.step import proximal_step
from optareg.transforms.target import TargetSparsityState, target_sparsity

__all__ = [
    "ProximalState",
    "TargetSparsityState",
    "add_penalty_gradient",
    "freeze_zeros",
    "proximal",
    "proximal_step",
    "target_sparsity",
]
