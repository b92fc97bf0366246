"""Coming from PyTorch: weights, optimizer state and settings, in mid-training, there and back.

```python
model_state = torch.load("model.pt", weights_only=True)
optim_state = torch.load("optimizer.pt", weights_only=True)

mapping = match_flax_params(torch_model.named_parameters(), params)
params = params_from_torch(model_state, params, mapping)
optimizer, opt_state = optimizer_from_torch(optim_state, params, mapping)
...  # go on from the same step
weights = params_to_torch(params, mapping)
torch_model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
torch_optimizer.load_state_dict(
    optimizer_to_torch(opt_state, params, mapping, optim_state["param_groups"])
)
```

This module does not import torch: it reads tensors by their own methods, and takes NumPy arrays
(such as `safetensors.numpy.load_file` gives) wherever it takes tensors. A function that raises has
changed nothing.

The running statistics of a batch norm are no parameters. A mapping of their own carries them:
``{"bn.running_mean": "bn/mean", "bn.running_var": "bn/var"}``. Flax's ``momentum`` is one minus
torch's, and its running variance is that of the batch, torch's n / (n - 1) times that.
"""

from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.names import match_flax_params
from adadelta_jax.torch_interop.optimizer import optimizer_from_torch, optimizer_to_torch
from adadelta_jax.torch_interop.weights import params_from_torch, params_to_torch

__all__ = [
    "LeafLayout",
    "match_flax_params",
    "optimizer_from_torch",
    "optimizer_to_torch",
    "params_from_torch",
    "params_to_torch",
]
