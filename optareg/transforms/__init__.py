"""How a penalty is applied: one function a way, each in a file of its own."""

from optareg.transforms.freeze import freeze_zeros
from optareg.transforms.gradient import add_penalty_gradient
from optareg.transforms.proximal import ProximalState, proximal
from optareg.transforms.step import proximal_step

__all__ = [
    "ProximalState",
    "add_penalty_gradient",
    "freeze_zeros",
    "proximal",
    "proximal_step",
]
