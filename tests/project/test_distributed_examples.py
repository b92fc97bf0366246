"""The examples on many devices run, print what they show, and go on where they were."""

import re

from tests.distributed.processes import assert_same_bits, result_in, run, started, wait_for


def number(pattern, output):
    return float(re.search(pattern, output)[1])


def accuracy(output):
    return number(r"test accuracy: (\d+\.\d\d) %", output)


def test_the_pmap_example_shows_equal_replicas_and_an_accuracy():
    output = run("data_parallel_pmap.py", "--steps", 100)
    assert "8 devices hold the same parameters and the same v and u, bit for bit" in output
    assert accuracy(output) > 90


def test_the_zero_example_shows_an_eighth_of_the_bytes_and_the_same_parameters():
    output = run("sharded_zero1.py", "--steps", 50)
    assert accuracy(output) > 85
    whole, split = (
        number(rf"v and u {kind}: +(\d+) bytes on each", output)
        for kind in ("on every device", "split among 8")
    )
    assert whole / 8 <= split <= whole / 8 + 100  # the ten biases of the last layer are not split
    for other in ("replicated", "one device"):
        # Parameters are below 1: in 50 steps, 50 roundings of what sums of another order give.
        assert number(rf"split - {other}: (\S+) at most", output) <= 50 * 2**-24


def test_the_multihost_example_learns_the_digits():
    output = run("multihost.py")
    assert "300 steps on 1 devices of 1 processes" in output
    assert accuracy(output) > 95


def test_one_process_goes_on_from_the_checkpoint_of_two(tmp_path):
    """Two devices add two numbers, in whichever order: the same bits as without a break."""
    folder = tmp_path / "checkpoints"
    saving = ("--checkpoint-dir", folder, "--save-every", 5)
    run("multihost.py", "--processes", 2, "--steps", 12, *saving)
    assert sorted(path.name for path in folder.iterdir()) == ["10", "12"]

    results = [tmp_path / "resumed.npz", tmp_path / "uninterrupted.npz"]
    flags = ("--steps", 20, "--result")
    # XLA has as many threads as NPROC: with too few, devices can wait for each other for ever.
    two_devices = {"JAX_NUM_CPU_DEVICES": 2, "NPROC": 32}
    output = run("multihost.py", *flags, results[0], *saving, **two_devices)
    assert "goes on from step 12" in output
    run("multihost.py", *flags, results[1], **two_devices)
    assert_same_bits(*map(result_in, results))


def test_when_one_process_fails_all_end():
    with started("multihost.py", "--processes", 2, "--batch-size", 63) as process:
        statuses, (output,) = wait_for([process])
    assert statuses == [1]
    assert "--batch-size must divide among 2 devices, got 63" in output
