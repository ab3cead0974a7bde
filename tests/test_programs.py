"""Calls outside of `jit` compile a program once, and are never served a stale one."""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from optareg import (
    L1,
    ElasticNet,
    GroupLasso,
    centered,
    clear_programs,
    constraint,
    masked,
    max_strength,
    minimize,
    path,
)
from optareg.penalties import Penalty, register_penalty, static
from optareg.solve import _heads, _programs
from problems import regression_data


def squares(X, y):
    return lambda w: 0.5 * jnp.mean((y - X @ w) ** 2)


def to(target):
    """The distance from a target, which is a constant of the loss."""
    return lambda w: 0.5 * jnp.sum((w - target) ** 2)


class TestPrograms:
    """Calls outside of `jit` compile a program once."""

    @pytest.fixture(autouse=True)
    def none_kept(self):
        clear_programs()
        yield
        clear_programs()

    def test_folds_share_one_and_nothing_stale_is_served(self):
        X, y = regression_data("diabetes")
        for fold in range(3):
            rows = np.arange(442) % 4 != fold
            Xs, ys = X[rows][:330], y[rows][:330]
            found = minimize(squares(Xs, ys), jnp.zeros(10), L1(0.1))
            model = sklearn.linear_model.Lasso(0.1, fit_intercept=False, tol=1e-10)
            expected = model.fit(Xs, ys).coef_
            np.testing.assert_allclose(found.params, expected, atol=1e-4)
        assert len(_programs.KEPT) == 1

    def test_constants_of_the_loss_make_another(self):
        found = [
            minimize(lambda w, c=c: jnp.sum((w - c) ** 2), jnp.zeros(2), L1(1.0)).params
            for c in (1.0, 2.0)
        ]
        np.testing.assert_allclose(found, [[0.5, 0.5], [1.5, 1.5]], rtol=1e-5)
        assert len(_programs.KEPT) == 2

    def test_one_with_a_callback_is_not_kept(self):
        seen = []
        for k in range(2):
            minimize(
                lambda w: jnp.sum((w - 1) ** 2),
                jnp.zeros(2),
                L1(1.0),
                callback=lambda *_, k=k: seen.append(k),
            )
        jax.effects_barrier()
        assert set(seen) == {0, 1}
        assert not _programs.KEPT

    def test_precision_makes_another(self, x64):
        for dtype in (jnp.float32, jnp.float64):
            minimize(lambda w: jnp.sum((w - 1) ** 2), jnp.zeros(2, dtype), L1(1.0))
        assert len(_programs.KEPT) == 2

    def test_the_table_is_bounded(self, monkeypatch):
        monkeypatch.setattr(_programs, "MOST", 1)
        for size in (2, 3):
            minimize(lambda w: jnp.sum((w - 1) ** 2), jnp.zeros(size), L1(1.0))
        assert len(_programs.KEPT) == 1

    @pytest.mark.parametrize(
        "solve",
        [
            lambda loss, s: minimize(loss, jnp.zeros(10), L1(s)).params,
            lambda loss, s: minimize(loss, jnp.ones(10), ElasticNet(s, 0.1)).params,
            lambda loss, s: path(loss, jnp.zeros(10), L1(s * jnp.ones(3))).params,
            lambda loss, s: max_strength(loss, jnp.zeros(10), L1(s)),
        ],
    )
    def test_a_second_call_does_not_trace_the_solver(self, solve, monkeypatch):
        X, y = regression_data("diabetes")
        solve(squares(X, y), 0.1)
        other = squares(X[::-1] * 2, y)
        expected = solve(other, 0.2)
        assert len(_programs.KEPT) == 1
        clear_programs()
        np.testing.assert_array_equal(solve(other, 0.2), expected)
        monkeypatch.setattr(_heads.Heads, "of", None)
        np.testing.assert_array_equal(solve(other, 0.2), expected)
        with pytest.raises(TypeError, match="NoneType"):  # So it would be seen.
            solve(lambda w: 2 * other(w), 0.2)

    def test_what_a_loss_closes_over_may_change(self):
        target, found = [1.0], []

        def near_the_first(w):
            return 0.5 * jnp.sum((w - target[0]) ** 2)

        for number in (1.0, 3.0):
            target[0] = number
            found.append(minimize(near_the_first, jnp.zeros(2), L1(0.5)).params)
        np.testing.assert_allclose(found, [[0.5, 0.5], [2.5, 2.5]], rtol=1e-5)

    def test_a_loss_is_its_derivatives_too(self):
        """Two of the same value, of which one says another derivative."""

        @jax.custom_jvp
        def half(x):
            return x / 2

        half.defjvp(lambda xs, ts: (half(*xs), ts[0]))
        found = [
            minimize(lambda w, f=f: jnp.sum(f(w**2) - w), jnp.zeros(2), L1(0.0)).params
            for f in (lambda x: x / 2, half)
        ]
        # w - 1 = 0 and, as it says, 2 w - 1 = 0.
        np.testing.assert_allclose(found, [[1, 1], [0.5, 0.5]], rtol=1e-5)

    @pytest.mark.parametrize("solve", [minimize, path])
    def test_all_numbers_of_a_penalty_count(self, solve):
        strengths = 0.5 if solve is minimize else jnp.array([0.5])
        found = [
            np.ravel(solve(to(2.0), jnp.zeros(1), ElasticNet(strengths, l2)).params)
            for l2 in (0.0, 0.5)
        ]
        # (w - 2) + 0.5 + 2 l2 w = 0.
        np.testing.assert_allclose(found, [[1.5], [0.75]], rtol=1e-5)

    @pytest.mark.parametrize("size", [1, 2000])
    @pytest.mark.parametrize("solve", [minimize, path])
    def test_all_arrays_of_a_penalty_count(self, solve, size):
        strengths = 0.5 if solve is minimize else jnp.array([0.5])
        middle = size // 2
        for center in (1.0, 5.0):
            others = jnp.zeros(size).at[middle].set(center)
            penalty = centered(L1(strengths), others)
            found = solve(to(2.0), jnp.zeros(size), penalty).params
            # From the target 0.5 nearer to the center.
            expected = 2 + 0.5 * np.sign(center - 2)
            assert np.ravel(found)[middle] == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("solve", [minimize, path])
    def test_what_is_static_in_a_penalty_counts(self, solve):
        strengths = 0.5 if solve is minimize else jnp.array([0.5])
        found = [
            np.ravel(solve(to(-2.0), jnp.zeros(1), L1(strengths, positive=p)).params)
            for p in (False, True, False)
        ]
        np.testing.assert_allclose(found, [[-1.5], [0], [-1.5]], rtol=1e-5)

    def test_groups_that_print_alike_differ(self):
        """Of more than a thousand labels NumPy prints the first and the last."""
        target = jnp.zeros(1200).at[600].set(2.0).at[601].set(0.1)
        pairs = np.arange(1200) // 2
        others = pairs.copy()
        others[[601, 603]] = others[[603, 601]]
        assert repr(pairs) == repr(others)
        last = [
            minimize(
                to(target), jnp.zeros(1200), GroupLasso(0.5, groups=groups)
            ).params[601]
            for groups in (pairs, others)
        ]
        assert last[0] > 0 and last[1] == 0

    def test_masks_count(self):
        params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
        free, found = ["a"], []
        penalty = masked(L1(0.5), lambda tree: {k: k not in free for k in tree})
        for name in ("a", "b"):
            free[0] = name
            found.append(
                minimize(
                    lambda w: sum(map(to(2.0), w.values())), params, penalty
                ).params
            )
        assert [float(f["a"][0]) for f in found] == pytest.approx([2, 1.5], rel=1e-5)
        assert [float(f["b"][0]) for f in found] == pytest.approx([1.5, 2], rel=1e-5)

    def test_a_penalty_of_the_user_is_traced_anew(self):
        most = [1.0]

        @register_penalty
        class Ball(Penalty):
            name: str = static(default="ball")

            def leaf_value(self, w):
                return jnp.where(jnp.all(jnp.abs(w) <= most[0]), 0.0, jnp.inf)

            def leaf_prox(self, w, step):
                return jnp.clip(w, -most[0], most[0])

        in_box = constraint(lambda w: jnp.clip(w, -most[0], most[0]))
        for penalty in (Ball(), in_box):
            for number in (1.0, 0.5):
                most[0] = number
                found = minimize(to(2.0), jnp.zeros(2), penalty).params
                np.testing.assert_allclose(found, [number, number], rtol=1e-5)

    @pytest.mark.parametrize("settings", [{"tol": 1e3}, {"max_steps": 1}])
    def test_settings_count(self, settings):
        X, y = regression_data("diabetes")

        def solve(**more):
            return minimize(squares(X, y), jnp.zeros(10), L1(0.1), **more)

        exact, rough = solve(), solve(**settings)
        assert int(rough.steps) < int(exact.steps)
        assert int(solve(**settings).steps) == int(rough.steps)
        assert int(solve().steps) == int(exact.steps)

    def test_a_strength_of_zero_may_have_another_program(self):
        X, y = regression_data("diabetes")
        for strength in (1.0, 0.0, 1.0):
            found = minimize(squares(X, y), jnp.ones(10), L1(strength))
            assert found.converged
            if strength == 0:
                expected = np.linalg.lstsq(X, y)[0]
                np.testing.assert_allclose(found.params, expected, rtol=1e-2)

    def test_numbers_of_a_path_may_be_traced(self):
        def total(at):
            penalty = centered(L1(jnp.array([0.5, 0.25])), at)
            return jnp.sum(path(to(2.0), jnp.zeros(2), penalty).params)

        # The solution is the target moved by a strength towards the center, or that.
        np.testing.assert_allclose(jax.grad(total)(jnp.array([1.9, 5.0])), [2, 0])
        at = jnp.array([[1.0, 1.0], [2.0, 5.0]])
        np.testing.assert_allclose(jax.vmap(total)(at), [6.5, 8.75], rtol=1e-5)
        expected = [float(total(x)) for x in at]
        assert expected == pytest.approx([6.5, 8.75], rel=1e-5)
        assert len(_programs.KEPT) == 1

    def test_a_rule_may_close_over_what_is_traced(self):
        def loss_of(s):
            loss = jax.custom_jvp(to(2.0))
            loss.defjvp(lambda p, t: (loss(*p), jnp.sum(s * (p[0] - 2) * t[0])))
            return loss

        def solve(s):
            return minimize(loss_of(s), jnp.zeros(2), L1(0.5)).params

        found = jax.vmap(solve)(jnp.array([1.0, 2.0]))
        np.testing.assert_allclose(found, [[1.5] * 2, [1.75] * 2], rtol=1e-5)

    @pytest.mark.parametrize("rule", ["forward", "vmap"])
    def test_all_rules_of_a_loss_count(self, rule):
        """Two losses that differ in a rule alone, which is wrong in one of them."""

        def with_forward(right):
            def value(w):
                return 0.5 * jnp.sum((w - 2.0) ** 2)

            def forward(w):
                both = value(w), -value(w)
                return both[0 if right else 1], (both, w)

            def back(saved, g):
                (a, b), w = saved
                return (g * (w - 2 + 0 * (a + b)),)

            loss = jax.custom_vjp(value)
            loss.defvjp(forward, back)
            return loss

        def with_vmap(right):
            nothing = jax.custom_batching.custom_vmap(lambda w: 0 * jnp.sum(w))
            most = 0.0 if right else 1e4
            nothing.def_vmap(lambda _, b, w: (most * jnp.sum(jnp.abs(w), -1), True))
            return lambda w: to(2.0)(w) + nothing(jax.lax.stop_gradient(w))

        make = with_forward if rule == "forward" else with_vmap
        assert minimize(make(True), jnp.zeros(2), L1(0.5)).converged
        served = minimize(make(False), jnp.zeros(2), L1(0.5))
        clear_programs()
        expected = minimize(make(False), jnp.zeros(2), L1(0.5))
        jax.tree.map(np.testing.assert_array_equal, served, expected)

    def test_a_second_derivative_is_not_asked_for_where_none_is_needed(self):
        @jax.custom_vjp
        def loss(w):
            return 0.5 * jnp.sum((w - 2) ** 2)

        def slope(w, g):
            return (g * jax.pure_callback(lambda w: np.asarray(w) - 2, w, w),)

        loss.defvjp(lambda w: (loss(w), w), slope)
        assert float(max_strength(loss, jnp.zeros(2), L1(1.0))) == 2

    def test_threads_share_the_table(self, monkeypatch):
        monkeypatch.setattr(_programs, "MOST", 2)

        def fit(size):
            return minimize(to(2.0), jnp.zeros(size), L1(1.0)).params

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for found in pool.map(fit, [1, 2, 3, 4] * 5):
                np.testing.assert_allclose(found, np.ones(len(found)), rtol=1e-5)
        assert len(_programs.KEPT) <= 2

    def test_what_jax_is_set_to_counts(self):
        seen = []
        for promotion in ("allow", "raise", "allow"):
            with jax.numpy_rank_promotion(promotion):
                minimize(to(2.0), jnp.zeros(2), L1(1.0))
            seen.append(len(_programs.KEPT))
        assert seen == [1, 2, 2]

    @pytest.mark.parametrize(
        "loss, little",
        [
            (lambda w: jnp.sum(jnp.outer(jnp.ones(1000), w) ** 2), True),
            (lambda w: jnp.sum(jnp.outer(jnp.ones(100_000), w) ** 2), False),
            (
                lambda w: jax.lax.scan(lambda w, _: (w / 2, None), w, None, 9)[0][0],
                True,
            ),
            (
                lambda w: jax.lax.scan(lambda w, _: (w / 2, None), w, None, 10**6)[0][
                    0
                ],
                False,
            ),
            (lambda w: jax.lax.while_loop(lambda w: w[0] > 1, jnp.sqrt, w)[0], False),
            (jax.jit(lambda w: jnp.sum(jnp.outer(jnp.ones(100_000), w))), False),
        ],
    )
    def test_it_is_optimized_where_there_is_much_to_compute(self, loss, little):
        options = _programs.options_for(jax.make_jaxpr(loss)(jnp.ones(3)))
        assert (options.get("xla_backend_optimization_level") == 0) == little
