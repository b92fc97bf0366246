"""How well networks learn with narrower accumulators."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tqdm
from jax import lax

from benchmarks.accumulators.variants import Setting, optimizer
from benchmarks.common import finished_runs, measuring, reporting
from benchmarks.common.networks import CharacterModel, help_texts
from benchmarks.paper import network as paper_network

Train = Callable[[optax.GradientTransformationExtraArgs, int], float]

SCORE_COLUMNS = {
    "mean": reporting.number("mean", ".4f"),
    "standard error": reporting.number("standard_error", ".4f"),
    "less float32's": reporting.number("difference", "+.4f"),
    "standard error of that": reporting.number("difference_standard_error", ".4f"),
}


RHOS_AND_EPS = tuple(
    Setting(rho, eps) for rho, eps in itertools.product((0.9, 0.95, 0.99), (1e-4, 1e-6, 1e-8))
)
APART = Setting(rho=0.99)
SCALES = tuple(Setting(gradient_scale=scale) for scale in (1e-3, 1.0, 1e3, 2.0**15))


def measure_mnist(
    variants: Sequence[str],
    settings: Iterable[Setting],
    quick: bool,
    data_dir: Path | None,
    runs: Path,
) -> list[reporting.Row]:
    """A row for each setting and variant: the test error of the paper's network."""
    if quick:
        train, test = paper_network.random_digits(200), paper_network.random_digits(100)
    else:
        train, test = paper_network.mnist(data_dir)
    epochs = 1 if quick else paper_network.EPOCHS

    def test_error(optimizer: optax.GradientTransformationExtraArgs, seed: int) -> float:
        return paper_network.error_after_training(optimizer, train, test, seed=seed, epochs=epochs)

    seeds, of_all = range(2 if quick else 10), {"epochs": epochs, "digits": len(train.labels)}
    rows: list[reporting.Row] = []
    for setting in settings:
        of_setting = of_all | setting._asdict()
        table = compare({"work": "mnist"} | of_setting, test_error, variants, setting, seeds, runs)
        reporting.print_table(f"mnist: test error, %; {setting}", table, SCORE_COLUMNS)
        rows += [of_setting | row for row in table]
    return rows


def measure_text(
    variants: Sequence[str], settings: Iterable[Setting], quick: bool, runs: Path
) -> list[reporting.Row]:
    """A row for each setting and variant: a transformer's validation loss, in nats a character.

    The text is what Python's help() knows of the language, which comes with Python: nine tenths to
    train on, the last tenth to validate on.
    """
    steps, batch, context = (2, 2, 8) if quick else (1000, 16, 64)
    characters, text = help_texts()
    text = text[:1000] if quick else text
    train, validation = jnp.split(jnp.asarray(text, jnp.int32), [len(text) * 9 // 10])
    batches = len(validation) // (batch * (context + 1))
    validation = validation[: batches * batch * (context + 1)].reshape(batches, batch, -1)
    model = CharacterModel(characters, *((16, 1) if quick else (96, 3)))

    def loss(params, excerpts):
        logits = jnp.asarray(model.apply(params, excerpts[:, :-1]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, excerpts[:, 1:]).mean()

    def excerpts(key):
        start = jax.random.randint(key, (batch, 1), 0, len(train) - context)
        return train[start + jnp.arange(context + 1)]

    def initial_params(key):
        return model.init(key, jnp.zeros((1, context), jnp.int32))

    @functools.partial(jax.jit, static_argnums=0)
    def score(optimizer, key):
        def step(params_and_state, key):
            params, state = params_and_state
            grads = jax.grad(loss)(params, excerpts(key))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = initial_params(jax.random.fold_in(key, 0))
        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        params, _ = lax.scan(step, (params, optimizer.init(params)), keys)[0]
        return lax.map(functools.partial(loss, params), validation).mean()

    def validation_loss(optimizer: optax.GradientTransformationExtraArgs, seed: int) -> float:
        return float(score(optimizer, jax.random.key(seed)))

    params = jax.eval_shape(initial_params, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    seeds, of_all = range(2 if quick else 3), {"parameters": parameters, "steps": steps}
    rows: list[reporting.Row] = []
    for setting in settings:
        of_setting = of_all | setting._asdict()
        recipe = {"work": "text"} | of_setting
        table = compare(recipe, validation_loss, variants, setting, seeds, runs)
        title = f"text: validation loss, nats a character; {parameters:,} parameters; {setting}"
        reporting.print_table(title, table, SCORE_COLUMNS)
        rows += [of_setting | row for row in table]
    return rows


def compare(
    of_all: finished_runs.Recipe,
    train: Train,
    variants: Sequence[str],
    setting: Setting,
    seeds: Iterable[int],
    runs: Path,
) -> list[reporting.Row]:
    """A row for each variant: its scores by seed, and how they differ from those of float32.

    Training is one network after another: `jax.vmap` over seeds was slower on CPU.
    """
    versions = {name: reporting.versions()[name] for name in ("adadelta-jax", "jax", "optax")}
    optimizers = {variant: optimizer(variant, setting) for variant in variants}
    scores: dict[str, list[float]] = {variant: [] for variant in variants}
    networks = list(itertools.product(seeds, variants))
    for seed, variant in tqdm.tqdm(networks, desc=of_all["work"], disable=None):
        recipe = {**of_all, "contender": variant, "seed": seed, "versions": versions}
        run = functools.partial(train, optimizers[variant], seed)
        name = f"{of_all['work']} {variant} seed={seed}"
        scores[variant].append(finished_runs.kept(runs, name, recipe, run))

    rows: list[reporting.Row] = []
    for variant in variants:
        row: reporting.Row = {"contender": variant, "scores": scores[variant]}
        row |= measuring.mean_and_standard_error(scores[variant])
        if variant != "float32" and "float32" in scores:
            pairs = zip(scores[variant], scores["float32"], strict=True)
            differences = [ours - theirs for ours, theirs in pairs]
            row |= measuring.mean_and_standard_error(differences, "difference")
        rows.append(row)
    return rows
