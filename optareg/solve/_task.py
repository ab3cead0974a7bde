"""`Task`: how one problem is solved, from the null model on where that helps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from optareg.penalties._base import Penalty
from optareg.solve._composite import Composite, Goal
from optareg.solve._goal import center_or_start, default_goal, rough_goal
from optareg.solve._heads import Heads
from optareg.solve._implicit import with_derivative
from optareg.solve._leaves import Leaves
from optareg.solve._newton import start as state_at
from optareg.solve._null_model import at_center, at_center_if, hold
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
      quick: the same function, or a quicker one, to search with.
      double: whether all numbers have double precision.
      tol: as given; None for the default.
      max_steps: the number of iterations to stop at.
      callback: called after each of them, or None.
    """

    program: ClosedJaxpr
    quick: ClosedJaxpr
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
        if not free or self.tol is not None:
            return self.begin(penalties, w).goal
        place, null = self.null_model(penalties, w)
        return self.past_null(penalties, place, null).goal

    def rough_goal(self, penalties: Penalties, w: Leaves) -> Goal:
        """That of half precision."""
        return rough_goal(self.fixed(penalties, w), w)

    def minimum(
        self, penalties: Penalties, w: Leaves, free: Sequence[int]
    ) -> tuple[Outcome, Goal]:
        """The solution with its derivative; by the null model if something is free."""
        # The derivative is taken outside of the scan: compilers of JAX before 0.7 crash
        # on it within.
        place = self.begin(penalties, w)
        if not free:
            outcome = self.search(penalties, w, 1.0, place.goal)
            return self.derived(penalties, outcome, place.goal), place.goal
        fixed = jax.lax.stop_gradient(penalties)

        def stage(place: Place, held: Array) -> tuple[Place, Outcome]:
            start = at_center_if(held, fixed, place.w)
            outcome = self.search(fixed, start, 1.0, place.goal, held)
            return self.past_null_if(held, fixed, place, outcome), outcome

        # One program serves both.
        place, both = jax.lax.scan(stage, place, jnp.array([True, False]))
        outcome = jax.tree.map(lambda x: x[-1], both)
        return self.derived(penalties, outcome, place.goal), place.goal

    def null_model(self, penalties: Penalties, w: Leaves) -> tuple[Place, Outcome]:
        """The null model, and where it was looked for from."""
        place = self.begin(penalties, w)
        start = at_center(penalties, w)
        return place, self.search(penalties, start, 1.0, place.goal, True)

    def search(
        self,
        penalties: Penalties,
        w: Leaves,
        damping: Any,
        goal: Goal,
        held: Any = None,
    ) -> Outcome:
        """The solution without its derivative; while `held` is true, the null model."""
        report = None
        if self.callback is not None:
            callback = self.callback

            def call(held: Any, *numbers: Any) -> None:
                if not held:
                    callback(*numbers)

            def report(*numbers: Any) -> None:
                jax.debug.callback(call, held, *numbers)

        w, damping, goal = jax.lax.stop_gradient((w, damping, goal))
        problem = self._replace(program=self.quick).fixed(hold(penalties, held), w)
        problem = problem._replace(units=goal.units)
        return solve(problem, w, damping, goal.tol, self.max_steps, report)

    def derived(
        self, penalties: Penalties, outcome: Outcome, goal: Goal, held: Any = None
    ) -> Outcome:
        """What `search` found, with its derivative."""
        return with_derivative(self.program, hold(penalties, held), outcome, goal)

    def outcome_at(self, penalties: Penalties, w: Leaves, goal: Goal) -> Outcome:
        """That of a search which ended at w."""
        w, goal = jax.lax.stop_gradient((w, goal))
        here = self.fixed(penalties, w)._replace(units=goal.units)
        return outcome_of(here, state_at(here.unscaled(w), w))

    def past_null(self, penalties: Penalties, place: Place, null: Outcome) -> Place:
        """From the null model to the model itself."""
        w, goal = jax.lax.stop_gradient(null.w), place.goal
        if self.tol is None:
            problem = self.fixed(penalties, w)
            goal, _ = default_goal(problem, w, self.double, place.before)
        new = tuple(
            jnp.where(place.at_null, a, b) for a, b in zip(w, place.w, strict=True)
        )
        return place._replace(w=new, goal=goal)

    def past_null_if(
        self, held: Array, penalties: Penalties, place: Place, outcome: Outcome
    ) -> Place:
        """The same while `held`, else the place as it is."""
        new: Place = jax.lax.cond(
            held,
            lambda place: self.past_null(penalties, place, outcome),
            lambda place: place,
            place,
        )
        return new
