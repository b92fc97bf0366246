"""What narrower accumulators save and cost: bytes, time, and how well networks learn.

v and u are stored in float32, bfloat16, float16 and int8. The narrow ones are rounded at random, as
the package does, and to nearest, for which it has no public option: there its `random_bits` is
replaced, while the step is traced, by one that ignores its seeds and gives the bits that round to
nearest.

Parts:
  bytes       of state, for the paper's network and for GPT-2
  step_time   update and apply; also XLA's scratch memory and bytes accessed
  randomness  what random bits cost and whether they are good: one array of float32, stored in
              bfloat16 with bits from the package's hash, from JAX's generators and from none
  mnist       test error of the paper's network, 6 epochs, 10 seeds
  text        validation loss of a character-level transformer on the help texts of Python, 3 seeds

Every trained network's score is kept in runs/accumulators at once, so that an interrupted run goes
on where it stopped. Delete that folder to train anew.
"""

import functools
import itertools
import json
import math
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import agreement
import contenders
import jax
import jax.numpy as jnp
import measuring
import memory
import numpy as np
import optax
import paper_network
import reporting
import step_time
import tqdm
import train_step
from flax import linen as nn
from jax import lax
from matplotlib.figure import Figure

import adadelta_jax
from adadelta_jax import _accumulators

RandomBits = Callable[..., jax.Array]  # as `_accumulators.random_bits`
Train = Callable[[optax.GradientTransformationExtraArgs, int], float]

PARTS = ("bytes", "step_time", "randomness", "mnist", "text")
DTYPES = ("float32", "bfloat16", "float16", "int8")
TO_NEAREST = "_to_nearest"
VARIANTS = ("float32", *(dtype + how for dtype in DTYPES[1:] for how in ("", TO_NEAREST)))

RHO, EPS = paper_network.RHO, paper_network.EPS
CHECKED_STEPS = 3
# Of the parameters after them, in units of the change that they made; see `agreement`. A number of
# 8 bits is off by up to an eighth, and a step goes with its root.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.1, "int8": 0.2}

SEEDS = {"mnist": 10, "text": 3}
PANELS_IN_A_LINE = 3
CELLS = paper_network.ROOT / "runs" / "accumulators"

BYTES_COLUMNS = {
    "state, MB": lambda row: f"{row['state_bytes'] / 1e6:.2f}",
    "B/parameter": reporting.number("state_bytes_per_parameter", ".4f"),
}
STEP_TIME_COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "deviation": reporting.number("deviation", ".1e"),
    **memory.UPDATE_COLUMNS,
}
RANDOMNESS_COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "scratch, B/value": reporting.number("scratch_bytes_per_value", ".2f"),
    "in one array, standard errors": reporting.number("deviation_in_one_array", ".2f"),
    "over steps, standard errors": reporting.number("deviation_over_steps", ".2f"),
}
SCORE_COLUMNS = {
    "mean": reporting.number("mean", ".4f"),
    "standard error": reporting.number("standard_error", ".4f"),
    "less float32's": reporting.number("difference", "+.4f"),
    "standard error of that": reporting.number("difference_standard_error", ".4f"),
}


def to_nearest(shape: tuple[int, ...], seeds: tuple | None) -> jax.Array:
    """The package's bits for rounding to nearest, whatever the seeds."""
    del seeds
    return package_bits(shape, None)


def jax_bits(implementation: str, shape: tuple[int, ...], seeds: tuple) -> jax.Array:
    """Bits of one of JAX's generators."""
    key = jax.random.key(0, impl=implementation)
    return jax.random.bits(functools.reduce(jax.random.fold_in, seeds, key), shape)


package_bits = _accumulators.random_bits  # itself, while it is replaced

SOURCES: dict[str, RandomBits] = {
    "hash": package_bits,
    **{
        implementation: functools.partial(jax_bits, implementation)
        for implementation in ("threefry2x32", "rbg", "unsafe_rbg")
    },
    "nearest": to_nearest,
}


def rounding_with(bits: RandomBits):
    """A context in which what is traced rounds with these bits."""
    return mock.patch.object(_accumulators, "random_bits", bits)


def optimizer(variant: str) -> optax.GradientTransformationExtraArgs:
    """The paper's setting of Adadelta, with accumulators as one of `VARIANTS` has them."""
    dtype = variant.removesuffix(TO_NEAREST)
    at_random = adadelta_jax.adadelta(1.0, RHO, EPS, accumulator_dtype=dtype)
    if dtype == variant:
        return at_random

    def update(updates, state, params=None, **extra_args):
        with rounding_with(to_nearest):
            return at_random.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(at_random.init, update)


def paper_shapes() -> step_time.Shapes:
    """The parameters of the paper's network."""
    params = jax.eval_shape(paper_network.initial_params, jax.random.key(0))
    return [leaf.shape for leaf in jax.tree.leaves(params)]


def measure_bytes(variants: list[str], quick: bool) -> list[reporting.Row]:
    """A row for each network and dtype: the state's bytes, of which nothing is allocated."""
    rows: list[reporting.Row] = []
    for network, shapes in {
        "paper_network": paper_shapes(),
        "gpt2": step_time.works(quick)["gpt2"],
    }.items():
        params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        parameters = sum(math.prod(shape) for shape in shapes)
        table: list[reporting.Row] = []
        for variant in variants:
            if variant in DTYPES:  # how they are rounded makes no difference
                state = jax.eval_shape(optimizer(variant).init, params)
                size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
                per_parameter = size / parameters
                table.append(
                    {
                        "contender": variant,
                        "state_bytes": size,
                        "state_bytes_per_parameter": per_parameter,
                    }
                )
        title = f"bytes of state: {network}, {parameters:,} parameters"
        reporting.print_table(title, table, BYTES_COLUMNS)
        rows += [{"network": network, "parameters": parameters} | row for row in table]
    return rows


def measure_step_time(variants: list[str], quick: bool, rounds: int) -> list[reporting.Row]:
    """A row for each set of parameters and variant, after the check that all are Adadelta."""
    large = step_time.works(quick)["8_large"]
    rows: list[reporting.Row] = []
    for network, shapes, dtype in (
        ("8_large", large, "float32"),
        ("8_large", large, "bfloat16"),
        ("paper_network", paper_shapes(), "float32"),
    ):
        params, grads = contenders.random_params_and_grads(shapes, dtype)
        taking_part = {
            variant: contenders.JaxContender(
                contenders.update_step(optimizer(variant)),
                params,
                optimizer(variant).init(params),
                grads,
            )
            for variant in variants
        }
        deviations = check(taking_part, params, grads)
        seconds = measuring.time_in_turn(taking_part, rounds)
        table = [
            {
                "contender": variant,
                **measuring.median_and_quartiles(seconds[variant]),
                "deviation": deviations[variant],
                **memory.footprint(contender),
            }
            for variant, contender in taking_part.items()
        ]
        parameters = sum(param.size for param in params)
        title = f"step time: {network}, {parameters:,} {dtype} parameters"
        reporting.print_table(title, table, STEP_TIME_COLUMNS)
        of_all = {"network": network, "parameters": parameters, "dtype": dtype}
        rows += [of_all | row for row in table]
    return rows


def check(
    taking_part: dict[str, contenders.JaxContender],
    params: list[jax.Array],
    grads: list[jax.Array],
) -> dict[str, float]:
    """Let new contenders take a few steps; how far each is from exact arithmetic."""
    for contender in taking_part.values():
        for _ in range(CHECKED_STEPS):
            contender()
    start = jax.device_get(params)
    exact = [
        agreement.adadelta_steps(
            param, grad, steps=CHECKED_STEPS, weight_decay=0.0, rho=RHO, eps=EPS
        )
        for param, grad in zip(start, jax.device_get(grads), strict=True)
    ]
    # bfloat16 rounds a parameter to a part of its change at every step, as step_time has it.
    least = 0.0 if start[0].dtype == np.float32 else step_time.TOLERANCE["bfloat16"]
    tolerances = {
        variant: least + TOLERANCE[variant.removesuffix(TO_NEAREST)] for variant in taking_part
    }
    leaves = {variant: contender.leaves() for variant, contender in taking_part.items()}
    return agreement.check(leaves, exact, start, tolerances)


def stored(bits: RandomBits, values: jax.Array, count: jax.Array) -> jax.Array:
    """The values in bfloat16, as the package stores v at a step."""
    with rounding_with(bits):
        return _accumulators.store(
            values, jax.ShapeDtypeStruct(values.shape, jnp.bfloat16), (count, 0, 0)
        )


class StoringContender:
    """Rounds an array of float32 to bfloat16 at every call, over what the last call left."""

    def __init__(self, bits: RandomBits, values: jax.Array):
        def step(last, count, values):
            del last  # donated, and so overwritten
            return stored(bits, values, count), count + 1

        self.count, self.last = jnp.int32(0), jnp.zeros(values.shape, jnp.bfloat16)
        self.values = values
        jitted = jax.jit(step, donate_argnums=0, keep_unused=True)
        self.compiled = jitted.lower(self.last, self.count, values).compile()

    def __call__(self) -> None:
        """Round once, and wait until it is done."""
        self.last, self.count = self.compiled(self.last, self.count, self.values)
        jax.block_until_ready(self.last)

    def scratch_bytes(self) -> int:
        """What XLA allocates at every call."""
        analysis = self.compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes


def measure_randomness(quick: bool, rounds: int) -> list[reporting.Row]:
    """A row for each source of random bits: what it costs, and how far means stay from the value.

    Each of some values is stored many times, the copies side by side in one array, then one copy at
    each of as many steps. The deviation is that of the mean of the copies from the value, in units
    of the standard error that independent rounding at random has; the largest over the values.
    """
    size, copies = (1 << 10, 1_000) if quick else (1 << 25, 100_000)
    draws = np.random.default_rng(0)
    values = jnp.asarray(draws.standard_normal(size, np.float32) ** 2)
    taking_part = {name: StoringContender(bits, values) for name, bits in SOURCES.items()}
    for contender in taking_part.values():
        contender()
    seconds = measuring.time_in_turn(taking_part, rounds)

    spacing = float(jnp.finfo(jnp.bfloat16).eps)
    several = draws.uniform(1, 2, 50).astype(np.float32)
    up = (several - 1) / spacing % 1
    standard_errors = spacing * np.sqrt(up * (1 - up) / copies)

    def largest_deviation(copies_last: jax.Array) -> float:
        means = np.asarray(copies_last, np.float64).mean(axis=-1)
        return float(np.max(np.abs(means - several) / standard_errors))

    rows: list[reporting.Row] = []
    for name, bits in SOURCES.items():
        in_one_array = jax.jit(functools.partial(stored, bits))(
            jnp.tile(several[:, None], copies), jnp.int32(0)
        )
        over_steps = jax.jit(
            lambda values, counts, bits=bits: lax.map(lambda n: stored(bits, values, n), counts)
        )(several, jnp.arange(copies))
        rows.append(
            {
                "contender": name,
                "values": size,
                **measuring.median_and_quartiles(seconds[name]),
                "scratch_bytes_per_value": taking_part[name].scratch_bytes() / size,
                "copies": copies,
                "deviation_in_one_array": largest_deviation(in_one_array),
                "deviation_over_steps": largest_deviation(over_steps.T),
            }
        )
    title = f"randomness: {size:,} values of float32 rounded to bfloat16"
    reporting.print_table(title, rows, RANDOMNESS_COLUMNS)
    return rows


def measure_mnist(variants: list[str], quick: bool, data_dir: Path | None) -> list[reporting.Row]:
    """A row for each variant: the test error of the paper's network."""
    if quick:
        train, test = paper_network.random_digits(200), paper_network.random_digits(100)
    else:
        train, test = paper_network.mnist(data_dir)
    epochs = 1 if quick else paper_network.EPOCHS

    def test_error(optimizer: optax.GradientTransformationExtraArgs, seed: int) -> float:
        return paper_network.error_after_training(optimizer, train, test, seed=seed, epochs=epochs)

    rows = compare("mnist", test_error, variants, quick)
    reporting.print_table("mnist: test error, %", rows, SCORE_COLUMNS)
    return [{"epochs": epochs} | row for row in rows]


class CharacterModel(nn.Module):
    """A transformer that predicts the next character."""

    characters: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, text):
        """From int32 (batch, time) to logits (batch, time, characters)."""
        normal = nn.initializers.normal(0.02)
        positions = self.param("positions", normal, (text.shape[-1], self.width))
        x = nn.Embed(self.characters, self.width)(text) + positions
        return nn.Dense(self.characters)(train_step.Transformer(self.width, self.depth)(x))


def measure_text(variants: list[str], quick: bool) -> list[reporting.Row]:
    """A row for each variant: the validation loss of a transformer, in nats a character.

    The text is what Python's help() knows of the language, which comes with Python: nine tenths to
    train on, the last tenth to validate on.
    """
    steps, batch, context = (2, 2, 8) if quick else (1000, 16, 64)
    characters, text = np.unique(
        list("".join(pydoc_data.topics.topics.values())), return_inverse=True
    )
    text = text[:1000] if quick else text
    train, validation = jnp.split(jnp.asarray(text, jnp.int32), [len(text) * 9 // 10])
    batches = len(validation) // (batch * (context + 1))
    validation = validation[: batches * batch * (context + 1)].reshape(batches, batch, -1)
    model = CharacterModel(len(characters), *((16, 1) if quick else (96, 3)))

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

    rows = compare("text", validation_loss, variants, quick)
    params = jax.eval_shape(initial_params, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    title = f"text: validation loss, nats a character; {parameters:,} parameters, {steps} steps"
    reporting.print_table(title, rows, SCORE_COLUMNS)
    return [{"parameters": parameters, "steps": steps} | row for row in rows]


def compare(work: str, train: Train, variants: list[str], quick: bool) -> list[reporting.Row]:
    """A row for each variant: its scores by seed, and how they differ from those of float32.

    Training is one network after another: `jax.vmap` over seeds was slower on CPU.
    """
    seeds = range(2 if quick else SEEDS[work])
    optimizers = {variant: optimizer(variant) for variant in variants}
    scores: dict[str, list[float]] = {variant: [] for variant in variants}
    networks = list(itertools.product(seeds, variants))
    for seed, variant in tqdm.tqdm(networks, desc=work, disable=None):
        cell = CELLS / work / f"{variant}_{seed}.json"
        if not quick and cell.exists():
            score = json.loads(cell.read_text())
        else:
            score = train(optimizers[variant], seed)
        if not quick:
            cell.parent.mkdir(parents=True, exist_ok=True)
            cell.write_text(json.dumps(score))
        scores[variant].append(score)

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


def draw(path: Path, rows: list[reporting.Row]) -> None:
    """Scores with their standard errors, and beside them bytes and milliseconds."""
    panels = (
        ("mnist", "MNIST, the paper's network", "test error, %", "mean"),
        ("text", "text, a transformer", "validation loss, nats a character", "mean"),
        ("bytes", "state of GPT-2", "bytes a parameter", "state_bytes_per_parameter"),
        ("step_time", "a step on 8 x (2048, 2048)", "ms", "median_ms"),
        ("randomness", "storing in bfloat16", "ms", "median_ms"),
    )
    panels = [panel for panel in panels if any(row["work"] == panel[0] for row in rows)]
    lines = -(-len(panels) // PANELS_IN_A_LINE)
    figure = Figure(figsize=(5 * PANELS_IN_A_LINE, 3 * lines), layout="constrained")
    axes = list(figure.subplots(lines, PANELS_IN_A_LINE, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (work, title, label, value) in zip(axes, panels, strict=False):
        shown = [
            row
            for row in rows
            if row["work"] == work
            and row.get("network") in (None, "gpt2", "8_large")
            and row.get("dtype") in (None, "float32")
        ]
        names = [row["contender"] for row in shown]
        numbers = [row[value] for row in shown]
        if value == "mean":
            spread = [row["standard_error"] for row in shown]
            axis.errorbar(numbers, names, xerr=spread, fmt="o", capsize=3)
        else:
            axis.bar_label(axis.barh(names, numbers), fmt="%.3g", padding=2)
            axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.set(title=title, xlabel=label)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write."""
    parser = measuring.argument_parser(__doc__, PARTS, VARIANTS)
    parser.add_argument(
        "--parts", dest="only", nargs="+", choices=PARTS, metavar="PART", help="the same as --only"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="the four .gz files of MNIST (default: ../shared/data/mnist if it is there, else they "
        "are downloaded)",
    )
    args = measuring.parse(parser)
    data_dir = args.__dict__.pop("data_dir")  # a path of this machine is no setting
    variants, quick, rounds = args.contenders, args.quick, args.rounds
    measure = {
        "bytes": lambda: measure_bytes(variants, quick),
        "step_time": lambda: measure_step_time(variants, quick, rounds),
        "randomness": lambda: measure_randomness(quick, rounds),
        "mnist": lambda: measure_mnist(variants, quick, data_dir),
        "text": lambda: measure_text(variants, quick),
    }
    rows = [{"work": part} | row for part in args.only for row in measure[part]()]
    if args.json:
        reporting.write_json(args.json, "accumulators", args, rows)
    if args.plot:
        draw(args.plot, rows)


if __name__ == "__main__":
    main()
