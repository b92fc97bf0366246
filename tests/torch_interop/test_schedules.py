"""A learning-rate scheduler of torch goes on here, and again in torch."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, carry_over_state
from adadelta_jax.torch_interop import (
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from adadelta_jax.torch_interop.schedules import schedules_from_torch

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="compares with its schedulers")
schedulers = torch.optim.lr_scheduler

SHAPES = {"first": (3, 2), "second": (4,)}
MAPPING = {name: name for name in SHAPES}
RATES = (0.5, 0.2)  # of the two groups
SCHEDULERS = {
    "StepLR": lambda o: schedulers.StepLR(o, step_size=3, gamma=0.7),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5, 9, 9, 40], gamma=0.6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.97),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.25, total_iters=6),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 0.9, total_iters=8),
    "a falling LinearLR": lambda o: schedulers.LinearLR(o, 1.0, 0.001, total_iters=150),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=9, power=1.7),
    "a long PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=400, power=0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=7, eta_min=0.01),
    "a long CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=200),
}
each_scheduler = pytest.mark.parametrize("scheduler_of", SCHEDULERS.values(), ids=SCHEDULERS)


def torch_run(scheduler_of):
    """Parameters, an optimizer of two groups, and a scheduler."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in SHAPES.values()]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, RATES, strict=True)]
    optimizer = torch.optim.Adadelta(groups, weight_decay=0.01)
    return parameters, optimizer, scheduler_of(optimizer)


def gradients(count):
    rng = np.random.default_rng(0)
    return [{name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(count)]


def step_torch(run, grads, steps_per_epoch=1, done=0):
    parameters, optimizer, scheduler = run
    for number, grad in enumerate(grads, start=done + 1):
        for parameter, g in zip(parameters, grad.values(), strict=True):
            parameter.grad = torch.from_numpy(g)
        optimizer.step()
        if number % steps_per_epoch == 0:
            scheduler.step()


def step_here(optimizer, opt_state, params, grads):
    @jax.jit
    def step(params, opt_state, grad):
        updates, opt_state = optimizer.update(grad, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for grad in grads:
        params, opt_state = step(params, opt_state, grad)
    return params, opt_state


def params_of(parameters):
    template = {name: jax.ShapeDtypeStruct(shape, "float64") for name, shape in SHAPES.items()}
    return params_from_torch(dict(zip(SHAPES, parameters, strict=True)), template, MAPPING)


def assert_same_as(run, tensors):
    for parameter, tensor in zip(run[0], tensors, strict=True):
        np.testing.assert_allclose(np.asarray(tensor), parameter.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [1, 3])
@pytest.mark.parametrize("way_back", ["steps of the scheduler", "a schedule"])
@each_scheduler
def test_steps_in_torch_then_here_then_in_torch_are_as_many_in_torch(
    scheduler_of, way_back, steps_per_epoch
):
    before, here, after = (5, 7, 9) if steps_per_epoch == 1 else (7, 11, 9)
    grads = gradients(before + here + after)
    stayed, left = torch_run(scheduler_of), torch_run(scheduler_of)
    step_torch(stayed, grads, steps_per_epoch)
    step_torch(left, grads[:before], steps_per_epoch)
    saved, scheduler = left[1].state_dict(), left[2].state_dict()
    epochs = (before + here) // steps_per_epoch - before // steps_per_epoch

    with jax.enable_x64(True):
        params = params_of(left[0])
        optimizer, opt_state = optimizer_from_torch(
            saved, params, MAPPING, lr_scheduler=scheduler, steps_per_epoch=steps_per_epoch
        )
        params, opt_state = step_here(optimizer, opt_state, params, grads[before:-after])
        groups = saved["param_groups"]
        if way_back == "a schedule":
            found = schedules_from_torch(scheduler, groups, before, steps_per_epoch)
            groups = [g | {"lr": lr} for g, lr in zip(groups, found, strict=True)]
        back = optimizer_to_torch(opt_state, params, MAPPING, groups)
        weights = params_to_torch(params, MAPPING)

    returned = torch_run(scheduler_of)
    for parameter, weight in zip(returned[0], weights.values(), strict=True):
        parameter.data.copy_(weight)
    returned[1].load_state_dict(back)
    if way_back == "a schedule":
        rates = [group["lr"] for group in back["param_groups"]]
        scheduler |= {"last_epoch": scheduler["last_epoch"] + epochs, "_last_lr": rates}
        returned[2].load_state_dict(scheduler)
    else:
        returned[2].load_state_dict(scheduler)
        for _ in range(epochs):
            returned[2].step()
    step_torch(returned, grads[-after:], steps_per_epoch, done=before + here)
    assert_same_as(stayed, [p.detach() for p in returned[0]])


@each_scheduler
def test_every_rate_is_that_of_torch_to_the_last_places(scheduler_of):
    _, optimizer, scheduler = torch_run(scheduler_of)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    groups = optimizer.state_dict()["param_groups"]
    found = schedules_from_torch(scheduler.state_dict(), groups, 4, 1)
    expected = []
    for _ in range(500):
        expected.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    counts = jnp.arange(4, 504)
    for schedule, rates in zip(found, np.transpose(expected), strict=True):
        for rate in (jax.jit(jax.vmap(schedule))(counts), jax.lax.map(schedule, counts)):
            assert rate.dtype == jnp.float32
            np.testing.assert_array_max_ulp(rate, rates.astype(np.float32), 1)
        with jax.enable_x64(True):
            np.testing.assert_allclose(jax.vmap(schedule)(counts), rates, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "epoch", "rate"),
    [
        ({"gamma": 0.99999}, 10**6, 0.99999**10**6),
        ({"gamma": 1 - 2.0**-30}, 2**30, np.exp(-1)),
        ({"gamma": 0.5, "step_size": 10**5}, 10**6 - 1, 0.5**9),
        ({"T_max": 10**6, "eta_min": 0.1}, 333_333, 0.7750004081),
        ({"T_max": 10**6, "eta_min": 0.1}, 3 * 10**6, 0.1),
        ({"total_iters": 10**7, "power": 2.0}, 9 * 10**6, 0.01),
        ({"total_iters": 10**7, "power": 2.0}, 10**9, 0.0),
        ({"start_factor": 0.0001, "end_factor": 1.0, "total_iters": 12345}, 12344, 0.999919004),
    ],
    ids=str,
)
def test_a_scheduler_that_steps_at_every_step_is_exact_for_a_million_steps(settings, epoch, rate):
    at_start = 0.0001 if "start_factor" in settings else 1.0
    scheduler = settings | {"base_lrs": [1.0], "last_epoch": 0, "_last_lr": [at_start]}
    (schedule,) = schedules_from_torch(scheduler, [{"lr": at_start}], 0, 1)
    np.testing.assert_allclose(schedule(epoch), rate, rtol=5e-7, atol=1e-12)


def test_a_scheduler_without_iterations_does_what_torch_does():
    for scheduler_of in (
        lambda o: schedulers.ConstantLR(o, 0.25, total_iters=0),
        lambda o: schedulers.LinearLR(o, 0.1, 0.9, total_iters=0),
        lambda o: schedulers.PolynomialLR(o, total_iters=0, power=2.0),
        lambda o: schedulers.MultiStepLR(o, [], 0.5),
        lambda o: schedulers.MultiStepLR(o, [0, -1, 2.5, 3.0, 1e300], 0.5),
    ):
        _, optimizer, scheduler = torch_run(scheduler_of)
        found = schedules_from_torch(scheduler.state_dict(), optimizer.param_groups, 0, 1)
        for count in range(6):
            rates = [float(schedule(count)) for schedule in found]
            np.testing.assert_allclose(rates, [g["lr"] for g in optimizer.param_groups], rtol=1e-6)
            optimizer.step()
            scheduler.step()


def test_a_count_before_the_checkpoint_has_the_rate_of_its_epoch():
    scheduler = {"gamma": 0.5, "base_lrs": [1.0], "last_epoch": 2}
    (schedule,) = schedules_from_torch(scheduler, [{"lr": 0.25}], 6, 3)
    rates = [float(schedule(count)) for count in range(12)]
    assert rates == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125] * 3


def test_rates_that_are_tensors_are_read():
    _, optimizer, scheduler = torch_run(SCHEDULERS["StepLR"])
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    state = scheduler.state_dict()
    state |= {key: [torch.tensor(lr) for lr in state[key]] for key in ("base_lrs", "_last_lr")}
    found = schedules_from_torch(state, optimizer.state_dict()["param_groups"], 0, 1)
    np.testing.assert_allclose([schedule(3) for schedule in found], np.array(RATES) * 0.7)


@pytest.mark.parametrize("step", [6, 7, 8, 298])
def test_an_epoch_ends_where_it_ends_in_torch(step):
    steps_per_epoch = 3 if step < 10 else 100
    epoch = {6: 2, 7: 2, 8: 2, 298: 3}[step]  # 298: two steps without effect, of a gradient scaler
    scheduler = {"gamma": 0.5, "base_lrs": [1.0], "last_epoch": epoch}
    (schedule,) = schedules_from_torch(scheduler, [{"lr": 0.5**epoch}], step, steps_per_epoch)
    end = 9 if step < 10 else 398
    rates = [float(schedule(count)) for count in (step, end - 1, end, end + steps_per_epoch)]
    assert rates == [0.5**epoch, 0.5**epoch, 0.5 ** (epoch + 1), 0.5 ** (epoch + 2)]


def checkpoint(scheduler_of=SCHEDULERS["StepLR"], steps=4):
    run = torch_run(scheduler_of)
    step_torch(run, gradients(steps))
    with jax.enable_x64(True):
        return params_of(run[0]), run[1].state_dict(), run[2].state_dict()


@pytest.mark.parametrize("steps_per_epoch", [2, 10, 100])
def test_numbers_of_steps_that_do_not_fit_are_warned_of(steps_per_epoch):
    params, saved, scheduler = checkpoint()
    with (
        jax.enable_x64(True),
        pytest.warns(
            UserWarning, match="has stepped 4 times and the optimizer 4 times, which does not fit"
        ) as warned,
    ):
        optimizer_from_torch(
            saved, params, MAPPING, lr_scheduler=scheduler, steps_per_epoch=steps_per_epoch
        )
    assert [warning.filename for warning in warned] == [__file__]


def test_a_scheduler_that_is_not_passed_is_warned_of():
    params, saved, _ = checkpoint()
    with (
        jax.enable_x64(True),
        pytest.warns(
            UserWarning, match=r"stays that of the checkpoint, 0\.35, 0\.14\. .* pass lr_"
        ) as warned,
    ):
        optimizer_from_torch(saved, params, MAPPING)
    assert [warning.filename for warning in warned] == [__file__]


def test_a_frozen_group_has_no_schedule():
    params, saved, scheduler = checkpoint()
    with jax.enable_x64(True):
        optimizer, opt_state = optimizer_from_torch(
            saved, params, MAPPING, frozen=["first"], lr_scheduler=scheduler
        )
        updates, _ = optimizer.update(params, opt_state, params)
    assert not updates["first"].any()
    assert updates["second"].all()


def test_an_optimizer_before_its_first_step_begins_with_the_first_epoch():
    params, saved, scheduler = checkpoint(steps=0)
    with jax.enable_x64(True):
        optimizer, opt_state = optimizer_from_torch(saved, params, MAPPING, lr_scheduler=scheduler)
        grads = gradients(8)
        stayed = torch_run(SCHEDULERS["StepLR"])
        step_torch(stayed, grads)
        params, _ = step_here(optimizer, opt_state, params, grads)
        assert_same_as(stayed, params.values())


def test_the_schedule_of_an_unknown_scheduler_goes_on_by_hand():
    def scheduler_of(optimizer):
        return schedulers.LambdaLR(optimizer, lambda epoch: 0.8**epoch)

    stayed = torch_run(scheduler_of)
    params, saved, _ = checkpoint(scheduler_of)
    grads = gradients(8)
    step_torch(stayed, grads)
    for group in saved["param_groups"]:
        del group["initial_lr"]  # says that the constant rate is meant
    with jax.enable_x64(True):
        _, opt_state = optimizer_from_torch(saved, params, MAPPING)
        optimizer = adadelta(optax.exponential_decay(0.5, 1, 0.8), weight_decay=0.01)
        opt_state = carry_over_state(optimizer, params, opt_state)
        params, _ = step_here(optimizer, opt_state, params, grads[4:])
        np.testing.assert_allclose(params["first"], stayed[0][0].detach(), rtol=1e-9)


def test_what_is_known_raises_no_warning():
    params, saved, scheduler = checkpoint()
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer_from_torch(saved, params, MAPPING, lr_scheduler=scheduler)


@each_scheduler
def test_a_schedule_needs_no_promotion_of_dtypes(scheduler_of):
    _, optimizer, scheduler = torch_run(scheduler_of)
    with jax.numpy_dtype_promotion("strict"):
        (first, _) = schedules_from_torch(
            scheduler.state_dict(), optimizer.state_dict()["param_groups"], 0, 2
        )
        for count in (3, np.int64(3), jnp.uint8(3)):
            np.testing.assert_array_equal(first(count), jax.jit(first)(jnp.int32(3)))
