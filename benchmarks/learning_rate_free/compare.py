"""Is Adadelta any good today? Optimizers that ask for no learning rate, on four small tasks.

Every contender runs with its defaults and a constant learning rate. Nothing is tuned but that of
adam_tuned: it is the one of `RATES` with the best mean score on the validation examples, over seeds
that are none of those reported, more of them where validation examples are few. A seed gives all
contenders the same start and the same batches, and the score is that on the test examples after the
last step.

Contenders:
  adadelta             this package's
  adam, adam_tuned     with a learning rate of 1e-3, and tuned
  schedule_free_adamw  judged by its averaged parameters, as it is meant to be; it does have a
                       learning rate, left at its default
  prodigy, cocob, dog, dowg
  dog_averaged         DoG judged by the running average of its parameters, as its authors advise
  mechanize_adam       around Adam with a learning rate of 1, as its documentation has it

Finished runs are kept in runs/learning_rate_free at once, so that an interrupted benchmark goes on
where it stopped. Delete that folder to train anew.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from optax import contrib

import adadelta_jax
from benchmarks.common import measuring, reporting
from benchmarks.learning_rate_free import curves, figure, tasks
from benchmarks.learning_rate_free.curves import Contender, Optimizer, Run
from benchmarks.paper import network as paper_network

SEEDS = range(5)
TUNING_SEEDS = {"digits": 10, "mnist": 2, "diabetes": 10, "text": 2}  # how many, by task
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
RUNS = paper_network.ROOT / "runs" / "learning_rate_free"

COLUMNS = {
    "mean": reporting.number("mean", ".4f"),
    "standard error": reporting.number("standard_error", ".4f"),
    "less the best's": reporting.number("less_best", "+.4f"),
    "less adadelta's": reporting.number("less_adadelta", "+.4f"),
    "standard error of that": reporting.number("less_adadelta_standard_error", ".4f"),
    "training loss": reporting.number("loss", ".4f"),
    "learning rate": reporting.number("learning_rate", "g"),
}


class AveragedState(NamedTuple):
    """The state of `averaged`."""

    inner: optax.OptState
    steps: jax.Array  # taken
    average: optax.Params


def averaged(optimizer: Optimizer, power: float = 8.0) -> Optimizer:
    """Keeps a running average of the parameters, which does not influence training.

    The average after t steps, of which the last has a weight of (power + 1) / (power + t), is that
    with weights that grow like t to this power (Shamir and Zhang, 2013, arXiv:1212.1824). 8 is what
    DoG's authors use.
    """

    def init(params):
        return AveragedState(optimizer.init(params), jnp.int32(0), params)

    def update(updates, state, params: Any = None):
        updates, inner = optimizer.update(updates, state.inner, params)
        steps, after = state.steps + 1, optax.apply_updates(params, updates)
        weight = (power + 1) / (power + steps)
        average = optax.incremental_update(after, state.average, weight)
        return updates, AveragedState(inner, steps, average)

    return optax.GradientTransformation(init, update)


def average(state: Any, params: optax.Params) -> optax.Params:
    """The parameters that `averaged` is to be judged by."""
    del params
    return state.average


ADAM = Contender("optax.adam(learning_rate)", lambda rate: optax.adam(rate))
CONTENDERS = {
    "adadelta": Contender("adadelta_jax.adadelta()", lambda _: adadelta_jax.adadelta()),
    "adam": ADAM,
    "adam_tuned": ADAM,
    "schedule_free_adamw": Contender(
        "contrib.schedule_free_adamw()",
        lambda _: contrib.schedule_free_adamw(),
        contrib.schedule_free_eval_params,
    ),
    "prodigy": Contender("contrib.prodigy()", lambda _: contrib.prodigy()),
    "mechanize_adam": Contender(
        "contrib.mechanize(optax.adam(1.0))", lambda _: contrib.mechanize(optax.adam(1.0))
    ),
    "cocob": Contender("contrib.cocob()", lambda _: contrib.cocob()),
    "dog": Contender("contrib.dog()", lambda _: contrib.dog()),
    "dog_averaged": Contender(
        "averaged(contrib.dog())", lambda _: averaged(contrib.dog()), average
    ),
    "dowg": Contender("contrib.dowg()", lambda _: contrib.dowg()),
}


def tune(task: tasks.Task, seeds: Sequence[int], runs: Path) -> dict[float, float]:
    """By learning rate, Adam's mean score on the validation examples; infinite if it diverged."""
    scores: dict[float, list[float]] = {rate: [] for rate in RATES}
    trained = list(itertools.product(RATES, seeds))
    for rate, seed in tqdm.tqdm(trained, desc=f"{task.title}: tuning Adam", disable=None):
        run = curves.kept(runs, task, ADAM, rate, seed, "validation")
        scores[rate].append(run.score if math.isfinite(run.score) else math.inf)
    return {rate: statistics.mean(numbers) for rate, numbers in scores.items()}


def compare(
    task: tasks.Task,
    names: Sequence[str],
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    runs: Path,
) -> list[reporting.Row]:
    """A row for each contender: its scores by seed, and how they differ from those of others."""
    rates = {"adam": 1e-3}
    tuned: reporting.Row = {}
    if "adam_tuned" in names:
        validation = tune(task, tuning_seeds, runs)
        rates["adam_tuned"] = min(validation, key=lambda rate: validation[rate])
        tuned = {"validation_scores": {f"{rate:g}": score for rate, score in validation.items()}}

    found: dict[str, list[Run]] = {name: [] for name in names}
    trained = list(itertools.product(seeds, names))
    for seed, name in tqdm.tqdm(trained, desc=task.title, disable=None):
        found[name].append(curves.kept(runs, task, CONTENDERS[name], rates.get(name), seed, "test"))

    scores = {name: [run.score for run in found[name]] for name in names}
    best = min(names, key=lambda name: (math.isnan(sum(scores[name])), sum(scores[name])))
    params = jax.eval_shape(task.initial_params, jax.random.key(0))
    rows: list[reporting.Row] = []
    for name in names:
        row: reporting.Row = {"contender": name, "made_by": CONTENDERS[name].made_by}
        state = jax.eval_shape(CONTENDERS[name].make(rates.get(name)).init, params)
        row["state_per_parameter"] = numbers_in(state) / numbers_in(params)
        row |= {"scores": scores[name], **measuring.mean_and_standard_error(scores[name])}
        for other, key in ((best, "less_best"), ("adadelta", "less_adadelta")):
            if other in names and other != name:
                pairs = zip(scores[name], scores[other], strict=True)
                row |= measuring.mean_and_standard_error(
                    [ours - theirs for ours, theirs in pairs], key
                )
        row["start_loss"] = statistics.mean(run.start_loss for run in found[name])
        row["losses"] = np.mean([run.losses for run in found[name]], axis=0).tolist()
        row["curve"] = np.mean([run.scores for run in found[name]], axis=0).tolist()
        row["loss"] = row["losses"][-1]
        if name in rates:
            row["learning_rate"] = rates[name]
        if name == "adam_tuned":
            row |= tuned
        rows.append(row)
    return rows


def numbers_in(tree: Any) -> int:
    """How many numbers a tree of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def described(task: tasks.Task, seeds: Sequence[int]) -> reporting.Row:
    """The row entries that say what a task is.

    `constant_score` is what the best constant answer scores on the test examples, as the mean over
    the seeds.
    """
    parts = [task.parts(seed) for seed in seeds]
    constants = [task.constant_score(each.train, each.test) for each in parts]
    params = jax.eval_shape(task.initial_params, jax.random.key(0))
    return {
        "title": task.title,
        "score_name": task.score_name,
        "examples": len(parts[0].train.inputs),
        "parameters": numbers_in(params),
        "constant_score": statistics.fmean(constants),
        **task.settings,
    }


def main() -> None:
    """Train, print, write."""
    parser = measuring.argument_parser(__doc__, TUNING_SEEDS, CONTENDERS, rounds=None)
    measuring.add_folders(parser, RUNS)
    args = measuring.parse(parser)
    all_tasks = tasks.tasks(args.quick, args.data_dir)
    seeds = SEEDS[:2] if args.quick else SEEDS
    rows: list[reporting.Row] = []
    for name in args.only:
        task = all_tasks[name]
        tuning_seeds = range(1000, 1000 + (1 if args.quick else TUNING_SEEDS[name]))
        table = compare(task, args.contenders, seeds, tuning_seeds, args.runs)
        of_all = {"work": name} | described(task, seeds)
        reporting.print_table(
            f"{task.title}: {task.score_name}; {len(seeds)} seeds, {of_all['steps']} steps; "
            f"the best constant answer has {of_all['constant_score']:.4f}",
            table,
            COLUMNS,
        )
        rows += [of_all | row for row in table]
    if args.json:
        reporting.write_json(args.json, "learning_rate_free", args, rows)
    if args.plot:
        figure.draw(args.plot, rows)


if __name__ == "__main__":
    main()
