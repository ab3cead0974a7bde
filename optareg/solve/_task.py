"""`Task`: how one problem is solved, from the null model on where that helps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from optareg._tree import epsilon
from optareg.penalties._base import Penalty
from optareg.solve._composite import Composite, Goal
from optareg.solve._goal import center_or_start, default_goal, rough_goal
from optareg.solve._heads import Heads
from optareg.solve._implicit import with_derivative
from optareg.solve._leaves import Leaves
from optareg.solve._newton import start as state_at
from optareg.solve._null_model import at_center, hold
from optareg.solve._problem import HALF
from optareg.solve._solution import Outcome
from optareg.solve._working_set import outcome_of, solve

__all__ = ["Callback", "Place", "Task"]

Array = jax.Array
Callback = Callable[[Any, Any, Any], None]
Penalties = tuple[Penalty, ...]


class Place(NamedTuple):
    """Where to go on from, and how near to come.

    Attributes:
      w: the parameters.
      goal: when they are near enough.
      before: the largest gradient before anything was solved for, in units of √H.
      at_null: whether the null model is of use as a start: all that it holds was there.
    """

    w: Leaves
    goal: Goal
    before: Array
    at_null: Array


class Task(NamedTuple):
    """How to solve for the penalties of one problem.

    Attributes:
      program: the loss.
      quick: the same function, or a quicker one; without, nothing is left to solve.
      double: whether all numbers have double precision.
      tol: as given; None for the default.
      max_steps: the number of iterations to stop at.
      callback: called after each of them, or None.
    """

    program: ClosedJaxpr
    quick: ClosedJaxpr | None
    double: bool
    tol: Any
    max_steps: Any
    callback: Callback | None

    def composite(self, penalties: Penalties, w: Leaves) -> Composite:
        """What is minimised."""
        return Composite(Heads.of(self.program, w), penalties)

    def fixed(self, penalties: Penalties, w: Leaves) -> Composite:
        """The same without derivatives."""
        consts, penalties = jax.lax.stop_gradient((self.program.consts, penalties))
        program = ClosedJaxpr(self.program.jaxpr, consts)
        return self._replace(program=program).composite(penalties, w)

    def begin(self, penalties: Penalties, w: Leaves) -> Place:
        """The first goal; it is that of the problem if nothing in it is free."""
        w = jax.lax.stop_gradient(w)
        problem = self.fixed(penalties, w)
        point, good = center_or_start(problem, w)
        if self.tol is None:
            goal, before = default_goal(problem, point, self.double)
        else:
            goal, before = Goal.of(self.tol, w), jnp.zeros(())
        at_null = good
        for x, c in zip(w, point, strict=True):
            at_null &= jnp.all(x == c)
        return Place(w, goal, before, at_null)

    def goal(self, penalties: Penalties, w: Leaves, free: Sequence[int]) -> Goal:
        """The goal alone."""
        if any(epsilon(x.dtype) > HALF for x in w):
            return rough_goal(self.fixed(penalties, w), w)
        place = self.begin(penalties, w)
        if free and self.tol is None:
            held = hold(penalties, True)
            null = self.solve(held, at_center(penalties, w), 1.0, place.goal)
            place = self.null(penalties, place, null, True)
        return place.goal

    def solve(
        self,
        penalties: Penalties,
        w: Leaves,
        damping: Any,
        goal: Goal,
        held: Any = False,
    ) -> Outcome:
        """The solution, with its derivative; while `held`, the null model."""
        outcome = self.search(penalties, w, damping, goal, held)
        return with_derivative(self.program, penalties, outcome, goal)

    def search(
        self,
        penalties: Penalties,
        w: Leaves,
        damping: Any,
        goal: Goal,
        held: Any = False,
    ) -> Outcome:
        """The same without its derivative."""
        report = None
        if self.callback is not None:
            callback = self.callback

            def call(held: Any, *numbers: Any) -> None:
                if not held:
                    callback(*numbers)

            def report(*numbers: Any) -> None:
                jax.debug.callback(call, held, *numbers)

        w, damping, goal = jax.lax.stop_gradient((w, damping, goal))
        if self.quick is None:
            here = self.fixed(penalties, w)._replace(units=goal.units)
            return outcome_of(here, state_at(here.unscaled(w), w))
        quick = self._replace(program=self.quick).fixed(penalties, w)
        quick = quick._replace(units=goal.units)
        return solve(quick, w, damping, goal.tol, self.max_steps, report)

    def null(
        self, penalties: Penalties, place: Place, outcome: Outcome, held: Any
    ) -> Place:
        """While `held`: from the null model, `outcome`, to the model itself."""

        def at_it(place: Place) -> Place:
            w = jax.lax.stop_gradient(outcome.w)
            goal = place.goal
            if self.tol is None:
                problem = self.fixed(penalties, w)
                goal, _ = default_goal(problem, w, self.double, place.before)
            new = tuple(
                jnp.where(place.at_null, a, b) for a, b in zip(w, place.w, strict=True)
            )
            return place._replace(w=new, goal=goal)

        new: Place = jax.lax.cond(held, at_it, lambda place: place, place)
        return new

    def from_null(self, penalties: Penalties, w: Leaves) -> tuple[Outcome, Goal]:
        """The solution, by way of the null model; one program serves both."""
        # The derivative is taken outside of the scan: compilers of JAX before 0.7 crash
        # on it within.
        fixed = jax.lax.stop_gradient(penalties)
        place = self.begin(fixed, w)

        def stage(place: Place, held: Array) -> tuple[Place, Outcome]:
            start = at_center(fixed, place.w)
            start = jax.tree.map(lambda a, b: jnp.where(held, a, b), start, place.w)
            outcome = self.search(hold(fixed, held), start, 1.0, place.goal, held)
            return self.null(fixed, place, outcome, held), outcome

        place, both = jax.lax.scan(stage, place, jnp.array([True, False]))
        outcome = jax.tree.map(lambda x: x[-1], both)
        return with_derivative(self.program, penalties, outcome, place.goal), place.goal
