"""`Heads`: a loss split into matrix products and the rest is the same loss."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from optareg import L1, minimize
from optareg.solve import _heads, _products
from optareg.solve._curvature import diagonal
from optareg.solve._heads import Heads, evaluate
from optareg.solve._products import Chosen, Cut

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 5))
Y = RNG.normal(size=(7, 3))
A = RNG.normal(size=(3, 4))
y = Y[:, 0]
BATCH = RNG.normal(size=(5, 3, 2))
w, W = np.zeros(5), np.zeros((5, 3))


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile():
    """Most of the time goes into compiling."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def contract(a, b, axis_a, axis_b):
    """The sum over one axis of each, with no transpose in between."""
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())))


@jax.custom_jvp
def product(w):
    return X @ w


product.defjvp(lambda primals, tangents: (product(*primals), X @ tangents[0]))


def softplus(z):
    return jnp.mean(jax.nn.softplus(-y * z))


def squares(Z):
    return jnp.sum((Z - Y) ** 2)


# Loss, leaves, the axis of each leaf that products sum over (None: no head), heads.
SPLITS = {
    "matrix first": (lambda w: softplus(X @ w), [w], [0], 1),
    "leaf first": (lambda w: softplus(w @ X.T), [w], [0], 1),
    "einsum": (lambda w: softplus(jnp.einsum("j,ij->i", w, X)), [w], [0], 1),
    "rows of leaf": (lambda W: squares(X @ W), [W], [0], 1),
    "rows, leaf first": (lambda W: squares(contract(W, X, 0, 1).T), [W], [0], 1),
    "columns of leaf": (lambda U: squares(contract(X, U, 1, 1)), [W.T], [1], 1),
    "columns, leaf first": (lambda U: squares((U @ X.T).T), [W.T], [1], 1),
    "jit": (jax.jit(lambda w: softplus(jax.jit(jnp.dot)(X, w))), [w], [0], 1),
    "vmap": (lambda w: softplus(jax.vmap(lambda x: x @ w)(X)), [w], [0], 1),
    "computed matrix": (
        lambda w: softplus((X - jnp.asarray(X).mean(0)) @ w),
        [w],
        [0],
        1,
    ),
    "twice": (lambda w: softplus(X @ w) + jnp.sum((X[:3] @ w) ** 2), [w], [0], 2),
    "nothing but a product": (lambda w: jnp.dot(X[0], w), [w], [0], 1),
    "intercept": (lambda w, b: softplus(X @ w + b), [w, np.zeros(())], [0, None], 1),
    "two leaves": (
        lambda w, v: softplus(X @ w + v @ A[0]),
        [w, np.zeros(4)],
        [0, 0],
        2,
    ),
    "transposed leaf": (lambda U: squares(X @ U.T), [W.T], [None], 0),
    "no product": (lambda w: softplus(jnp.sum(X * w, axis=1)), [w], [None], 0),
    "used elsewhere": (lambda w: softplus(X @ w) + jnp.sum(w**4), [w], [None], 0),
    "on both sides": (lambda W: jnp.sum((X @ W) @ (W @ A)[:3]), [W], [None], 0),
    "with itself": (lambda w: jnp.dot(w, w), [w], [None], 0),
    "of two leaves": (
        lambda W, v: jnp.sum((W @ v) ** 2),
        [W, np.zeros(3)],
        [None, None],
        0,
    ),
    "over two axes": (lambda W: jnp.tensordot(W, X[:5, :3], 2) ** 2, [W], [None], 0),
    "outer": (lambda w: jnp.sum(jnp.outer(w, y) ** 2), [w], [None], 0),
    "batched": (
        lambda W: jnp.sum(jnp.einsum("ij,ijk->ik", W, BATCH) ** 2),
        [W],
        [None],
        0,
    ),
    "custom derivative": (lambda w: softplus(product(w)), [w], [None], 0),
    "remat": (jax.checkpoint(lambda w: softplus(X @ w)), [w], [None], 0),
    "scan": (
        lambda w: jax.lax.scan(lambda c, x: (c + x @ w, None), 0.0, X)[0] ** 2,
        [w],
        [None],
        0,
    ),
    "cond": (
        lambda w: jax.lax.cond(w[0] < 1, lambda w: softplus(X @ w), jnp.sum, w),
        [w],
        [None],
        0,
    ),
    "the leaf": (lambda a: a, [np.zeros(())], [None], 0),
    "a constant": (lambda w: 1.5, [w], [None], 0),
    "not all": (lambda w, v: softplus(X @ w), [w, np.zeros(3)], [0, None], 1),
}


def split(loss, leaves):
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    return Heads.of(jax.make_jaxpr(loss)(*leaves), leaves)


def somewhere(leaves, seed=1):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=np.shape(leaf))) for leaf in leaves]


@pytest.mark.parametrize("name", SPLITS)
def test_products_with_known_matrices_are_found(name):
    loss, leaves, axes, count = SPLITS[name]
    heads = split(loss, leaves)
    assert len(heads.heads) == count
    # A leaf that is never read has no product, and needs none.
    assert list(heads.axes) == axes


@pytest.mark.parametrize("name", SPLITS)
def test_value_and_gradient_are_those_of_the_loss(name):
    loss, leaves, *_ = SPLITS[name]
    heads, at = split(loss, leaves), somewhere(leaves)
    program = jax.make_jaxpr(loss)(*at)
    functions = [
        lambda x: jnp.asarray(loss(*x), float),
        heads,
        lambda x: evaluate(program, x).astype(float),
    ]
    both = jax.jit(lambda x: [jax.value_and_grad(f)(x) for f in functions])

    def of_products(x):
        return heads.value_and_gradient(heads.products(x), x)[1]

    (value, gradient), *others = both(at)
    others.append((heads(at), jax.jit(of_products)(at)))
    for other, slope in others:
        np.testing.assert_allclose(other, value, rtol=1e-13)
        for a, b in zip(slope, gradient, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", [n for n, s in SPLITS.items() if s[3]])
def test_the_loss_of_some_rows_is_that_with_zeros_elsewhere(name, which):
    """And its derivatives. One of the rows is not there, and the last ones rest."""
    loss, leaves, axes, _ = SPLITS[name]
    heads, at = split(loss, leaves), somewhere(leaves)
    number = (1, 3)[which]
    chosen = [
        None
        if axis is None
        else Chosen(
            jnp.array([2, x.shape[axis], 0]), axis, (1, 3), jnp.array(which), True
        )
        for x, axis in zip(at, axes, strict=True)
    ]

    def of_some(x, rows):
        return x if rows is None else rows.take(x) * rows.may_change(rows.take(x))

    def with_zeros(x, rows):
        if rows is None:
            return x
        kept = np.isin(np.arange(x.shape[rows.axis]), rows.rows[:number])
        return x * kept.reshape([-1 if i == rows.axis else 1 for i in range(x.ndim)])

    towards = [jnp.flip(x) for x in at]
    some, whole, step, whole_step = (
        [f(x, rows) for x, rows in zip(xs, chosen, strict=True)]
        for xs in (at, towards)
        for f in (of_some, with_zeros)
    )

    def derivatives(heads, at, step):
        products = heads.products(at)
        value, slope = heads.value_and_gradient(products, at)
        return value, slope, heads.hessian(products, at)(step)

    # Numbers of rows are no constants: compilers before JAX 0.7 fold those wrongly.
    @jax.jit
    def of_those(which, numbers):
        pairs = zip(chosen, numbers, strict=True)
        rows = [c and c._replace(rows=n, which=which) for c, n in pairs]
        return derivatives(heads.take(rows), some, step)

    numbers = [None if c is None else c.rows for c in chosen]
    value, slope, bent = of_those(jnp.array(which), numbers)

    def plain(*x):
        return jnp.asarray(loss(*x), float)

    gradient = jax.grad(plain, tuple(range(len(at))))
    expected, expected_bent = jax.jvp(gradient, tuple(whole), tuple(whole_step))
    np.testing.assert_allclose(value, plain(*whole), rtol=1e-13)
    for found, right in ((slope, expected), (bent, expected_bent)):
        for x, y, rows in zip(found, right, chosen, strict=True):
            np.testing.assert_allclose(x, of_some(y, rows), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_squares_of_some_rows_are_those_of_numpy(which):
    (head,) = split(lambda w: jnp.sum((X @ w) ** 2), [w]).heads
    rows, sizes, z = np.array([3, 1, 4]), (1, 2, 3), np.arange(7.0)
    chosen = Chosen(jnp.asarray(rows), 0, sizes, jnp.array(which), False)
    expected = (X[:, rows] ** 2).T @ z
    expected[sizes[which] :] = 0
    for cut in (Cut(head, chosen), Cut(head, chosen).kept()):
        found = cut.transpose_of_squares(jnp.asarray(z), jnp.zeros(3))
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("size", [1, 16, 17, 33])
def test_the_curvature_of_a_leaf_without_products_is_the_diagonal(size):
    """Computed in batches, of which the last may hold less."""
    bend = np.linspace(1, 2, size)

    def loss(w, none):
        return jnp.sum(bend * jnp.cosh(w)) + jnp.sum(w) ** 2 + jnp.sum(none)

    leaves = [jnp.linspace(-1, 1, size), jnp.zeros(0)]
    found, none = diagonal(split(loss, leaves), leaves)
    np.testing.assert_allclose(found, bend * np.cosh(leaves[0]) + 2, rtol=1e-13)
    assert none.shape == (0,)


@pytest.mark.parametrize("name", ["matrix first", "leaf first", "two leaves", "twice"])
def test_products_with_unit_vectors_are_read(name):
    loss, leaves, *_ = SPLITS[name]
    for head in split(loss, leaves).heads:
        units = np.eye(len(leaves[head.leaf]))
        expected = np.array([head(jnp.asarray(unit)) for unit in units])
        like = jnp.asarray(expected[0])
        found = head.of_units(jnp.array(1), len(units) - 1, like)
        np.testing.assert_array_equal(found, expected[1:])


@pytest.mark.parametrize("parts", [1, 3])
def test_the_matrix_of_a_hessian_is_that_of_jax(parts, monkeypatch):
    """Of two leaves with products and one without, in one part or in several."""
    monkeypatch.setattr(_heads, "ENTRIES", 1 if parts > 1 else 10**6)
    monkeypatch.setattr(_heads, "MOST_PARTS", parts)

    def loss(w, b, v):
        z = X @ w + b * y + jnp.sum(v @ A[0])
        return jnp.sum((z - y) ** 2) + 3 * b**2 + jnp.sum((X[:3] @ w) ** 2) * 2

    leaves = [jnp.zeros(5), jnp.zeros(()), jnp.zeros(4)]
    heads = split(loss, leaves)
    assert [axis is None for axis in heads.axes] == [False, True, False]
    flat, unravel = jax.flatten_util.ravel_pytree(leaves)
    expected = jax.hessian(lambda flat: loss(*unravel(flat)))(flat)
    found = jax.jit(heads.hessian_matrix)(leaves)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


# The four ways in which a leaf and a matrix meet, with their NumPy transposes.
MEETINGS = {
    "X W": (lambda X, W: X @ W, (5, 3), lambda X, Z: X.conj().T @ Z),
    "W' X'": (lambda X, W: contract(W, X, 0, 1), (5, 3), lambda X, Z: X.conj().T @ Z.T),
    "X U'": (lambda X, U: contract(X, U, 1, 1), (3, 5), lambda X, Z: Z.T @ X.conj()),
    "U X'": (lambda X, U: U @ X.T, (3, 5), lambda X, Z: Z @ X.conj()),
}


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("name", MEETINGS)
def test_transposes_and_squares_are_those_of_numpy(name, is_complex, monkeypatch):
    forward, shape, transpose = MEETINGS[name]
    M = X + 1j * X[::-1] if is_complex else X
    like = jnp.zeros(shape, M.dtype)
    (head,) = split(lambda W: jnp.sum(jnp.abs(forward(M, W)) ** 2), [like]).heads
    (V,) = somewhere([like])
    V = V.astype(M.dtype)
    np.testing.assert_allclose(head(V), forward(M, V), rtol=1e-13)
    Z = np.asarray(forward(M, V)) * (1 + 0.5j if is_complex else 1)
    # JAX's transpose is the plain one; that of a gradient is its conjugate.
    np.testing.assert_allclose(
        head.transpose(jnp.asarray(Z), like), transpose(M.conj(), Z), rtol=1e-12
    )
    size = np.abs(M) ** 2
    ones = np.ones_like(Z)
    for most in (2**20, M.size // 3, 1):  # At once, in blocks, or row by row.
        monkeypatch.setattr(_products, "MOST_ENTRIES", most)
        found = head.transpose_of_squares(jnp.asarray(ones), like)
        np.testing.assert_allclose(found, transpose(size, ones), rtol=1e-12)


def test_a_matrix_computed_in_the_loss_is_computed_once():
    (head,) = split(*SPLITS["computed matrix"][:2]).heads
    np.testing.assert_allclose(head.matrix, X - X.mean(0), rtol=1e-13)


def test_data_may_be_traced():
    at = somewhere([w])[0]

    def value(X):
        return split(lambda w: softplus(X @ w), [w])([at])

    def plain(X):
        return softplus(X @ at)

    many = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(value))(many), jax.vmap(plain)(many), rtol=1e-13
    )
    np.testing.assert_allclose(jax.grad(value)(X), jax.grad(plain)(X), rtol=1e-12)


def test_with_heads_or_without_the_solution_is_the_same():
    """More columns than a working set holds, in leaves of several layouts."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(40, 150))
    y = X[:, :4] @ np.array([2.0, -1, 1, 0.5]) + 0.1 * rng.normal(size=40)
    products = {
        "rows": lambda w: contract(w, X, 0, 1)[0],
        "columns": lambda w: contract(X, w, 1, 1)[:, 0],
        "transposed": lambda w: (w.T @ X.T)[0],
    }
    shapes = {"rows": (150, 1), "columns": (1, 150), "transposed": (150, 1)}
    start = {k: jnp.zeros(shape) for k, shape in shapes.items()}

    def loss(params):
        return sum(0.5 * jnp.mean((y - f(params[k])) ** 2) for k, f in products.items())

    leaves, order = jax.tree.flatten(start)
    found = split(lambda *leaves: loss(order.unflatten(leaves)), leaves).axes
    assert order.unflatten([-1 if a is None else a for a in found]) == {
        "rows": 0,
        "columns": 1,
        "transposed": -1,
    }
    solution = minimize(loss, start, L1(0.1))
    model = sklearn.linear_model.Lasso(
        alpha=0.1, fit_intercept=False, tol=1e-13, max_iter=1_000_000
    )
    expected = model.fit(X, y).coef_
    assert solution.converged
    for w in solution.params.values():
        np.testing.assert_array_equal(np.ravel(w) != 0, expected != 0)
        np.testing.assert_allclose(np.ravel(w), expected, rtol=0, atol=1e-8)
