"""The package needs no torch: neither to be imported, nor to read and write arrays."""

import subprocess
import sys
import textwrap


def run_without_torch(script):
    """Run a script in a process of its own, which must not import torch."""
    check = "\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script) + check]
    subprocess.run(command, check=True, timeout=120)


def test_the_import_of_the_module_does_not_import_torch():
    run_without_torch("import adadelta_jax.torch_interop")


def test_a_run_is_carried_over_and_back_as_numpy_arrays():
    run_without_torch(
        """
        import jax.numpy as jnp
        import ml_dtypes
        import numpy as np
        from adadelta_jax.torch_interop import *

        for dtype in (np.float32, ml_dtypes.bfloat16):
            weights = {"fc.weight": np.arange(6, dtype=dtype).reshape(3, 2)}
            square_avg, acc_delta = np.full((3, 2), 0.5, dtype), np.full((3, 2), 0.25, dtype)
            entry = {"step": np.float32(3), "square_avg": square_avg, "acc_delta": acc_delta}
            group = {"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "params": [0]}
            optim_state = {"state": {0: entry}, "param_groups": [group]}

            template = {"fc": {"kernel": jnp.zeros((2, 3))}}
            mapping = match_flax_params(weights, template)
            params = params_from_torch(weights, template, mapping)
            optimizer, opt_state = optimizer_from_torch(optim_state, params, mapping)
            back = optimizer_to_torch(opt_state, params, mapping, [group])

            assert params["fc"]["kernel"].dtype == dtype
            for key, value in entry.items():
                assert type(back["state"][0][key]) is np.ndarray
                assert back["state"][0][key].dtype == value.dtype
                np.testing.assert_array_equal(back["state"][0][key], value)
            returned = params_to_torch(params, mapping)["fc.weight"]
            np.testing.assert_array_equal(returned, weights["fc.weight"])
        """
    )
