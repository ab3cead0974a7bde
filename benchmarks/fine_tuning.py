"""Fine-tuning near a pretrained network: how many weights stay, and what is forgotten.

    pip install -e ".[demo]" && python benchmarks/fine_tuning.py

A network of three Dense layers learns scikit-learn's digits by Adam, and is fine-tuned,
by Adam again, on few images of another task:

- new classes: it knows the digits 0 to 4, and learns 5 to 9 with a new head. The
  hidden layers are near the pretrained ones; for the old task they get the old head.
- turned: it knows upright digits, and learns digits turned by 30 degrees. All layers
  are near the pretrained ones.

Ways: plain; the last layer alone; `centered(L1(λ), at=pretrained)`; plain and then cut
back, that is only the largest changes are kept, as many as that L1 has; this L1, or cut
back, and tuned, that is trained on with `freeze_zeros(at=pretrained)`, where each of
the two trainings has half of the steps; and `centered(L2(λ), at=pretrained)`, which is
L2-SP.
"Same" are weights and biases near the pretrained ones that equal them bit for bit; some
pixels are never on, so plain fine-tuning has some too. "Stored" is what the others
take: 4 bytes each, and the cheaper of one bit for each parameter and 4 bytes for each
place. Accuracies are of images that no training saw.

Means ± standard deviations over seeds; each has its own split, network and minibatches.
Prints Markdown; progress goes to stderr.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from digits import (
    Images,
    accuracy,
    dense,
    layers,
    load,
    steps_of,
    train,
)
from report import print_table, spread

from optareg import L1, L2, centered, freeze_zeros, masked, proximal

PyTree = Any

WIDTHS = (64, 128, 64)
RATE, BATCH = 2e-3, 20


class Task(NamedTuple):
    """What a network knows, and what it is to learn.

    Attributes:
      old: images for pretraining and for the test.
      new: images for fine-tuning and for the test.
      new_head: whether the last layer is new, and not near the pretrained one.
    """

    old: tuple[Images, Images]
    new: tuple[Images, Images]
    new_head: bool


def new_classes(seed: int, few: int) -> Task:
    """0 to 4, then 5 to 9, which are called 0 to 4 in the new head."""
    old, new = [], []
    for data in load(seed):
        large = np.asarray(data.y) >= 5
        old.append(data.where(~large))
        new.append(Images(data.x[large], data.y[large] - 5))
    return Task((old[0], old[1]), (new[0].where(np.arange(few)), new[1]), True)


def turned(seed: int, few: int) -> Task:
    """Upright, then turned: of other images."""
    data, test = load(seed)
    rows = np.arange(len(data.y))
    return Task(
        (data.where(rows[few:]), test),
        (turn(data.where(rows[:few])), turn(test)),
        False,
    )


def turn(data: Images) -> Images:
    images = np.asarray(data.x).reshape(-1, 8, 8)
    images = scipy.ndimage.rotate(images, 30, (1, 2), reshape=False, order=1)
    return Images(jnp.asarray(images.reshape(-1, 64)), data.y)


NAMES = {
    "L1": "`centered(L1)`",
    "L2": "`centered(L2)`",
    "cut back": "plain, cut back",
    "L1 tuned": "`centered(L1)`, tuned",
    "tuned": "plain, cut back, tuned",
}
TASKS = {"new classes": new_classes, "turned": turned}


@functools.partial(jax.jit, static_argnames=("way", "epochs", "new_head"))
def trained(
    way: str,
    epochs: int,
    new_head: bool,
    data: Images,
    start: PyTree,
    key: jax.Array,
    pretrained: PyTree = None,
    strength: Any = 0.0,
) -> PyTree:
    """The parameters after so many epochs."""
    steps = steps_of(data, epochs, BATCH)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    if way == "last layer":
        kept = [True] * (len(start) - 1) + [False]
        optimizer = optax.chain(optimizer, optax.masked(optax.set_to_zero(), kept))
    elif way in ("L1", "L2"):
        kind = {"L1": L1, "L2": L2}[way]
        penalty = centered(kind(strength), at=pretrained)
        near = [True] * (len(start) - 1) + [not new_head]
        optimizer = proximal(optimizer, masked(penalty, near))
    elif way == "tuned":
        at = list(pretrained)
        if new_head:  # All of it moves.
            at[-1] = jax.tree.map(lambda x: optax.MaskedNode(), at[-1])
        optimizer = freeze_zeros(optimizer, at=at)
    return train(layers, optimizer, start, data, key, epochs, batch=BATCH)[0]


@jax.jit
def right(p: PyTree, test: Images) -> jax.Array:
    return accuracy(layers, p, test)


def same(p: PyTree, pretrained: PyTree) -> float:
    """The share that is equal bit for bit, in percent."""
    pairs = zip(jax.tree.leaves(p), jax.tree.leaves(pretrained), strict=True)
    bits = [
        np.asarray(x).view(np.int32) == np.asarray(y).view(np.int32) for x, y in pairs
    ]
    return 100 * float(np.mean(np.concatenate([x.ravel() for x in bits])))


def cut_back(p: PyTree, pretrained: PyTree, count: int) -> PyTree:
    """With the `count` smallest changes undone."""
    changes = jax.tree.map(lambda x, y: jnp.abs(x - y), p, pretrained)
    each = np.sort(np.concatenate([np.ravel(x) for x in jax.tree.leaves(changes)]))
    least = each[count - 1] if count else -1.0
    return jax.tree.map(
        lambda x, y, change: jnp.where(change > least, x, y), p, pretrained, changes
    )


def stored(share: float, size: int) -> float:
    """Kilobytes of the changed parameters, where that share is the same, in percent."""
    changed = size * (1 - share / 100)
    return (4 * changed + min(size / 8, 4 * changed)) / 1000


def measure(
    task: Task, strengths: dict[str, Sequence[float]], epochs: int, seed: int
) -> dict[tuple[str, float], tuple[float, float, float, float]]:
    """For each way and strength: share kept, new and old accuracy, kilobytes stored."""
    keys = jax.random.split(jax.random.key(seed), 4)
    classes = 5 if task.new_head else 10
    start = dense(keys[0], (*WIDTHS, classes))
    before = trained("plain", epochs // 4, False, task.old[0], start, keys[1])
    head = dense(keys[2], (WIDTHS[-1], classes))[0] if task.new_head else before[-1]
    start = [*before[:-1], head]
    near = slice(-1) if task.new_head else slice(None)
    size = sum(x.size for x in jax.tree.leaves(before[near]))
    result: dict[tuple[str, float], tuple[float, float, float, float]] = {}

    def run(
        way: str, strength: float, first: PyTree = start, epochs: int = epochs
    ) -> PyTree:
        numbers = keys[3], [*before[:-1], head], jnp.float32(strength)
        return trained(way, epochs, task.new_head, task.new[0], first, *numbers)

    def note(way: str, strength: float, p: PyTree) -> None:
        old = [*p[:-1], before[-1]] if task.new_head else p
        share = same(p[near], before[near])
        result[way, strength] = (
            share,
            float(right(p, task.new[1])),
            float(right(old, task.old[1])),
            stored(share, size),
        )

    plain = run("plain", 0.0)
    note("not tuned", 0.0, start)
    note("plain", 0.0, plain)
    note("last layer", 0.0, run("last layer", 0.0))
    for strength in strengths["L1"]:
        note("L1", strength, run("L1", strength))
    for strength in strengths["L1"]:
        count = round(size * result["L1", strength][0] / 100)
        back = cut_back(plain[near], before[near], count)
        note("cut back", strength, [*back, *plain[len(back) :]])
    for strength in strengths["L1"]:
        first = run("L1", strength, epochs=epochs // 2)
        note("L1 tuned", strength, run("tuned", 0.0, first, epochs // 2))
    half = run("plain", 0.0, epochs=epochs // 2)
    for strength in strengths["L1"]:
        count = round(size * result["L1", strength][0] / 100)
        back = cut_back(half[near], before[near], count)
        first = [*back, *half[len(back) :]]
        note("tuned", strength, run("tuned", 0.0, first, epochs // 2))
    for strength in strengths["L2"]:
        note("L2", strength, run("L2", strength))
    return result


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    strengths = {"L1": options.l1, "L2": options.l2}
    for title, make in TASKS.items():
        runs = []
        for seed in range(options.seeds):
            print(f"{title}, seed {seed}", file=sys.stderr)
            task = make(seed, options.images)
            runs.append(measure(task, strengths, options.epochs, seed))
        for way, strength in runs[0]:
            columns = zip(*(run[way, strength] for run in runs), strict=True)
            name = NAMES.get(way, way)
            cells = [spread(column) for column in columns]
            yield [title, name, f"{strength:g}" if strength else "", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=100, help="for fine-tuning")
    parser.add_argument("--l1", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3, 1e-2])
    parser.add_argument("--l2", type=float, nargs="+", default=[1e-3, 1e-2, 1e-1, 1])
    parser.add_argument("--epochs", type=int, default=100, help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs = 1, 40
    print_table(
        f"Fine-tuning on {options.images} images",
        ["task", "way", "λ", "same, %", "new task, %", "old task, %", "stored, kB"],
        rows(options),
    )


if __name__ == "__main__":
    main()
