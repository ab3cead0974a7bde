"""`sparsity` and `summarize`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optareg import (
    L1,
    GroupLasso,
    by_path,
    joined,
    partition,
    sparsity,
    summarize,
)

PARAMS = {
    "kernel": jnp.array([[0.0, -0.0, 3.0], [4.0, 1e-30, 0.0]]),
    "bias": jnp.zeros(2, jnp.bfloat16),
    "count": jnp.array([0, 1]),
    "hole": None,
    "masked": optax.MaskedNode(),
}


def test_sparsity_counts_exact_zeros_only():
    assert sparsity(PARAMS) == np.float32(6 / 10)
    assert sparsity(jnp.array([1e-30, -1e-30])) == 0


def test_sparsity_by_leaf_has_the_structure_of_the_parameters():
    shares = sparsity(PARAMS, per_leaf=True)
    assert jax.tree.structure(shares) == jax.tree.structure(PARAMS)
    assert shares["kernel"] == 0.5 and shares["bias"] == 1 and shares["count"] == 0.5


def test_sparsity_runs_compiled_and_vmapped():
    assert jax.jit(sparsity)(PARAMS) == sparsity(PARAMS)
    batch = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(jax.vmap(sparsity)(batch), [0.5, 1.0])


def test_sparsity_of_a_large_leaf_is_not_rounded_away():
    w = jnp.zeros(2**24 + 2, jnp.float16).at[0].set(1)
    assert 0.9999 < sparsity(w) <= 1


def test_sparsity_of_nothing_is_nan():
    assert np.isnan(sparsity({})) and np.isnan(sparsity(jnp.zeros((0, 3))))


def test_summary_holds_the_numbers():
    summary = summarize(PARAMS)
    kernel = next(leaf for leaf in summary.leaves if leaf.path == "['kernel']")
    assert (kernel.shape, kernel.size, kernel.zeros) == ((2, 3), 6, 3)
    assert kernel.norm == 5.0
    assert [leaf.path for leaf in summary.leaves] == [
        "['bias']",
        "['count']",
        "['kernel']",
    ]
    assert (summary.total.size, summary.total.zeros) == (10, 6)
    np.testing.assert_allclose(summary.total.norm, np.sqrt(26))


def test_summary_is_a_table_in_a_terminal():
    lines = str(summarize(PARAMS)).splitlines()
    assert len(lines) == 1 + 1 + 3 + 1 + 1
    assert "zeros %" in lines[0] and "60.0" in lines[-1]
    assert max(map(len, lines)) < 80


def test_summary_is_a_table_in_a_notebook():
    html = summarize({"<b>": jnp.zeros(2)})._repr_html_()
    assert html.count("<tr>") == 3 and "&lt;b&gt;" in html and "<b>" not in html


def test_a_bare_array_has_a_name_too():
    assert summarize(jnp.zeros(3)).leaves[0].path == "the root"


def test_summarize_of_traced_parameters_says_what_to_do():
    with pytest.raises(TypeError, match="sparsity"):
        jax.jit(lambda w: summarize(w).total.size)(jnp.zeros(3))


def test_a_summary_counts_the_groups_of_a_penalty():
    params = {
        "a": {"kernel": jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])},
        "b": {"kernel": jnp.ones((2, 3)), "bias": jnp.array([0.0, 0.0, 1.0])},
    }
    penalty = partition(
        {True: GroupLasso(1.0, axis=0), False: L1(1.0)}, by_path("kernel")
    )
    summary = summarize(params, penalty)
    assert [(row.groups, row.zero_groups) for row in summary.leaves] == [
        (3, 2),
        (None, None),
        (3, 0),
    ]
    assert (summary.total.groups, summary.total.zero_groups) == (6, 2)
    lines = str(summary).splitlines()
    assert lines[0].endswith("norm  groups  zero groups")
    assert lines[-1].split()[-2:] == ["6", "2"]
    units = joined(GroupLasso(1.0, axis=1), r"\['([ab])'\]")
    assert summarize(params, units).total.zero_groups == 2
    assert "groups" not in str(summarize(params, L1(1.0)))
    with pytest.raises(TypeError, match="`summarize` needs a penalty"):
        summarize(params, 0.1)
