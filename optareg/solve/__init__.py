"""Solving to a tolerance, in `jit`: one strength, or a whole path of them."""

from optareg.solve._choose import Choice, choose_strength
from optareg.solve._max_strength import max_strength, strength_grid
from optareg.solve._minimize import minimize
from optareg.solve._path import path
from optareg.solve._programs import clear_programs
from optareg.solve._solution import Solution

__all__ = [
    "Choice",
    "Solution",
    "choose_strength",
    "clear_programs",
    "max_strength",
    "minimize",
    "path",
    "strength_grid",
]
