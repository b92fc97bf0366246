"""The package needs no torch: neither to be imported, nor to read and write arrays."""

import subprocess
import sys
import textwrap

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


def run_without_torch(script):
    """Run a script in a process of its own, which must not import torch."""
    check = "\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script) + check]
    subprocess.run(command, check=True, timeout=120)


def test_the_import_of_the_module_does_not_import_torch():
    run_without_torch("import adadelta_jax.torch_interop")


def test_a_run_is_carried_over_and_back_as_numpy_arrays_of_every_dtype(tmp_path):
    run_without_torch(
        f"""
        import jax
        import jax.numpy as jnp
        import numpy as np
        import safetensors.numpy
        from adadelta_jax.torch_interop import *

        jax.config.update("jax_enable_x64", True)
        for dtype in map(jnp.dtype, {DTYPES}):
            weights = {{"fc.weight": np.arange(6).reshape(3, 2).astype(dtype)}}
            square_avg, acc_delta = np.full((3, 2), 0.5, dtype), np.full((3, 2), 0.25, dtype)
            entry = {{"step": np.float32(3), "square_avg": square_avg, "acc_delta": acc_delta}}
            group = {{"lr": 0.5, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "params": [0]}}
            optim_state = {{"state": {{0: entry}}, "param_groups": [group]}}

            template = {{"fc": {{"kernel": jax.ShapeDtypeStruct((2, 3), dtype)}}}}
            mapping = match_flax_params(weights, template)
            params = params_from_torch(weights, template, mapping)
            optimizer, opt_state = optimizer_from_torch(optim_state, params, mapping)
            returned = params_to_torch(params, mapping)
            returned_entry = optimizer_to_torch(opt_state, params, mapping, [group])["state"][0]

            assert params["fc"]["kernel"].dtype == dtype
            for given, back in ((weights, returned), (entry, returned_entry)):
                assert given.keys() == back.keys()
                for key, value in given.items():
                    assert type(back[key]) is np.ndarray
                    assert back[key].dtype == value.dtype
                    assert back[key].flags.writeable and back[key].flags.c_contiguous
                    np.testing.assert_array_equal(back[key], value)

            if dtype != "complex128":  # which the format lacks
                safetensors.numpy.save_file(returned, r"{tmp_path / "weights"}")
                restored = safetensors.numpy.load_file(r"{tmp_path / "weights"}")["fc.weight"]
                assert restored.dtype == dtype
                np.testing.assert_array_equal(restored, weights["fc.weight"])
        """
    )
