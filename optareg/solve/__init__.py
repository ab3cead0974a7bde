"""Solving to a tolerance, in `jit`: one strength, or a whole path of them."""

from optareg.solve._minimize import Solution, minimize
from optareg.solve._path import max_strength, path, strength_grid

__all__ = ["Solution", "max_strength", "minimize", "path", "strength_grid"]
