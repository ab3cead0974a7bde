"""scikit-learn's digits: a small training set with wrong labels, split by seed."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.datasets

__all__ = ["Data", "Digits", "load_digits"]

Array = jax.Array


class Digits(NamedTuple):
    """Images and what they show.

    Attributes:
      images: grey values from 0 to 1, float32, shape (..., n, 64).
      labels: digits from 0 to 9, int32, shape (..., n).
    """

    images: Array
    labels: Array


class Data(NamedTuple):
    """The parts of the digits; no image is in two parts of the same seed.

    Attributes:
      train: shapes (seeds, n, 64) and (seeds, n); some labels are wrong.
      validation: the same shapes with another n; all labels are right.
      test: shapes (n, 64) and (n,): the same images for all seeds, in no other part of
        any seed.
    """

    train: Digits
    validation: Digits
    test: Digits


def load_digits(
    seed: int,
    seeds: int,
    *,
    train: int,
    wrong: float,
    validation: int = 500,
    test: int = 600,
) -> Data:
    """The digits, split at random once for each seed.

    Args:
      seed: the first seed, not negative.
      seeds: how many seeds, each with its own training and validation set.
      train: images in a training set.
      wrong: the share of training labels that are replaced by another digit.
      validation: images in a validation set.
      test: images in the test set.
    """
    pixels, digits = sklearn.datasets.load_digits(return_X_y=True)
    images, labels = (pixels / 16).astype(np.float32), digits.astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, pool = order[:test], order[test:]

    parts = []
    for k in range(seeds):
        rng = np.random.default_rng((seed, k))
        rows = rng.permutation(pool)[: train + validation]
        noisy = labels[rows]
        flipped = rng.permutation(train)[: round(wrong * train)]
        noisy[flipped] = (noisy[flipped] + rng.integers(1, 10, len(flipped))) % 10
        parts.append((images[rows], noisy))
    return Data(
        train=stack([(x[:train], y[:train]) for x, y in parts]),
        validation=stack([(x[train:], y[train:]) for x, y in parts]),
        test=Digits(jnp.asarray(images[held_out]), jnp.asarray(labels[held_out])),
    )


def stack(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Digits:
    """Images and labels of many parts, with a leading axis for the parts."""
    images, labels = zip(*parts, strict=True)
    return Digits(jnp.asarray(np.stack(images)), jnp.asarray(np.stack(labels)))
