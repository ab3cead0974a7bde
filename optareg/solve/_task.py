"""`Task`: how one problem is solved, from the null model on where that helps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from optareg._precision import all_digits
from optareg.penalties._base import Penalty
from optareg.solve._composite import Composite, Goal
from optareg.solve._goal import center_and_start, default_goal, rough_goal
from optareg.solve._gram import Gram
from optareg.solve._heads import Heads
from optareg.solve._implicit import with_derivative
from optareg.solve._leaves import Leaves
from optareg.solve._newton import start as state_at
from optareg.solve._null_model import hold
from optareg.solve._smooth import Point
from optareg.solve._solution import Outcome
from optareg.solve._working_set import outcome_of, solve

__all__ = ["Callback", "Place", "Task", "either"]

Array = jax.Array
Callback = Callable[[Any, Any, Any], None]
Penalties = tuple[Penalty, ...]


class Place(NamedTuple):
    """Where to go on from, and how near to come.

    Attributes:
      start: the parameters, and the loss alone there.
      null: the same with all that is penalised at its center; after `past_null`, the
        null model.
      goal: when they are near enough.
      before: the largest gradient before anything was solved for, in units of √H.
      at_null: whether the null model is of use as a start: all that it holds was there.
    """

    start: Point
    null: Point
    goal: Goal
    before: Array
    at_null: Array


class Task(NamedTuple):
    """How to solve for the penalties of one problem.

    Attributes:
      program: the loss.
      gram: the same by its Hessian, to search with, or None.
      double: whether all numbers have double precision.
      tol: as given; None for the default.
      max_steps: the number of iterations to stop at.
      callback: called after each of them, or None.
    """

    program: ClosedJaxpr
    gram: Gram | None
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

    def searched(self, penalties: Penalties, w: Leaves) -> Composite:
        """That, by its Hessian where it is known."""
        if self.gram is None:
            return self.fixed(penalties, w)
        return Composite(*jax.lax.stop_gradient((self.gram, penalties)))

    def begin(self, penalties: Penalties, w: Leaves) -> Place:
        """The first goal; it is that of the problem if nothing in it is free."""
        w = jax.lax.stop_gradient(w)
        problem = self.searched(penalties, w)
        null, start, good, at_null = center_and_start(problem, w)
        # From where exp overflows, for instance, nothing leads on.
        overflows = jnp.isposinf(start.value) & jnp.isfinite(null.value)
        start = either(overflows, null, start)
        if self.tol is None:
            point = either(good, null, start)
            goal, before = default_goal(problem, point, self.double)
        else:
            goal, before = Goal.of(self.tol, w), jnp.zeros(())
        start, null = map(problem.smooth.without_penalties, (start, null))
        return Place(start, null, goal, before, at_null)

    def goal(self, penalties: Penalties, w: Leaves, free: Sequence[int]) -> Goal:
        """The goal alone."""
        if not free or self.tol is not None:
            return self.begin(penalties, w).goal
        place, _, null = self.null_model(penalties, w)
        return self.past_null(penalties, place, null).goal

    def rough_goal(self, penalties: Penalties, w: Leaves) -> Goal:
        """That of half precision."""
        return rough_goal(self.fixed(penalties, w), w)

    def minimum(
        self, penalties: Penalties, w: Leaves, free: Sequence[int]
    ) -> tuple[Outcome, Goal]:
        """The solution with its derivative; by the null model if something is free."""
        # The derivative is taken outside of the scan: in `jax.hessian` JAX forgets the
        # rule for it within.
        place = self.begin(penalties, w)
        if not free:
            outcome, _ = self.search(
                penalties, place.start, place.null, 1.0, place.goal
            )
            return self.derived(penalties, outcome, place.goal), place.goal
        fixed = jax.lax.stop_gradient(penalties)

        def stage(place: Place, held: Array) -> tuple[Place, Outcome]:
            start = either(held, place.null, place.start)
            outcome, end = self.search(fixed, start, place.null, 1.0, place.goal, held)
            return self.past_null_if(held, fixed, place, end), outcome

        # One program serves both.
        place, both = jax.lax.scan(stage, place, jnp.array([True, False]))
        outcome = jax.tree.map(lambda x: x[-1], both)
        return self.derived(penalties, outcome, place.goal), place.goal

    def null_model(
        self, penalties: Penalties, w: Leaves
    ) -> tuple[Place, Outcome, Point]:
        """Where the null model was looked for from; that model, and the loss there."""
        place = self.begin(penalties, w)
        null = place.null
        return place, *self.search(penalties, null, null, 1.0, place.goal, True)

    def search(
        self,
        penalties: Penalties,
        start: Point,
        null: Point,
        damping: Any,
        goal: Goal,
        held: Any = None,
        hint: Leaves | None = None,
    ) -> tuple[Outcome, Point]:
        """The solution without its derivative; while `held` is true, the null model.

        From and to a point of the loss alone. It may be near a hint, if there is one.
        Where it gets stuck above a second point, `null`, it begins once more there: a
        far start may be so flat that nothing leads on. Where the steps run out, it ends
        where it is.
        """
        given = self.program.consts, penalties, start, null, damping, goal, hint
        fixed = jax.lax.stop_gradient(given)
        consts, penalties, start, null, damping, goal, hint = fixed
        task = self._replace(program=ClosedJaxpr(self.program.jaxpr, consts))
        problem = task.searched(hold(penalties, held), start.w)
        problem = problem._replace(units=goal.units)
        norms, smooth, most = problem.unscaled(start.w), problem.smooth, self.max_steps

        def objective(point: Point) -> Array:
            value: Array = smooth.with_penalties(point).value + norms.penalty(point.w)
            return value

        least = objective(null)

        def once(state: Any) -> Any:
            again, first, start, before = state
            # Within a `vmap` others may go on: then this one takes no step.
            taken = jnp.where(again, before.steps, most).astype(jnp.int32)
            begin, report = smooth.with_penalties(start), self.report(held, taken)
            outcome, end = solve(
                problem, begin, damping, goal.tol, most - taken, report, hint
            )
            steps, end = taken + outcome.steps, smooth.without_penalties(end)
            stuck = ~outcome.reaches(goal.tol) & (steps < most)
            again = first & stuck & (objective(end) > least)
            # The parameters are those of the end.
            outcome = outcome._replace(w=(), steps=steps)
            return again, jnp.array(False), either(again, null, end), outcome

        yes, zero = jnp.array(True), jnp.zeros_like(start.value)
        nothing = Outcome((), zero, zero, jnp.int32(0), zero)
        state = yes, yes, start, nothing
        _, _, end, outcome = jax.lax.while_loop(lambda state: state[0], once, state)
        return outcome._replace(w=end.w), end

    def report(self, held: Any, taken: Any) -> Callable[..., None] | None:
        """Calls the callback, if there is one; so many steps are `taken` already."""
        if self.callback is None:
            return None
        callback = self.callback

        def call(held: Any, *numbers: Any) -> None:
            if not held:
                callback(*numbers)

        def report(steps: Array, *numbers: Any) -> None:
            jax.debug.callback(call, held, taken + steps, *numbers)

        return report

    def derived(
        self, penalties: Penalties, outcome: Outcome, goal: Goal, held: Any = None
    ) -> Outcome:
        """What `search` found, with its derivative."""
        return with_derivative(self.program, hold(penalties, held), outcome, goal)

    @all_digits
    def outcome_at(self, penalties: Penalties, w: Leaves, goal: Goal) -> Outcome:
        """That of a search which ended at w."""
        w, goal = jax.lax.stop_gradient((w, goal))
        here = self.fixed(penalties, w)._replace(units=goal.units)
        return outcome_of(here, state_at(here.unscaled(w), w))

    def past_null(self, penalties: Penalties, place: Place, null: Point) -> Place:
        """From the null model to the model itself."""
        goal = place.goal
        if self.tol is None:
            problem = self.fixed(penalties, null.w)
            point = problem.smooth.with_penalties(null)
            goal, _ = default_goal(problem, point, self.double, place.before)
        start = either(place.at_null, null, place.start)
        return place._replace(start=start, null=null, goal=goal)

    def past_null_if(
        self, held: Array, penalties: Penalties, place: Place, null: Point
    ) -> Place:
        """The same while `held`, else the place as it is."""
        new: Place = jax.lax.cond(
            held,
            lambda place: self.past_null(penalties, place, null),
            lambda place: place,
            place,
        )
        return new


def either(first: Any, a: Any, b: Any) -> Any:
    """The tree of arrays a, where `first` is true; else b."""
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)
