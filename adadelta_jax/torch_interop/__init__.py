"""Move a run between `torch.optim.Adadelta` and this package, in mid-training.

Here are its weights, its optimizer state and its settings, each both ways. Read `weights` and
`optimizer` first, then their parts: `names` and `mapping`, which tensor is which leaf; `layouts`,
`kinds` and `tensors`, how one becomes the other; `groups` and `state`, both parts of an optimizer.

```python
model_state = torch.load("model.pt", weights_only=True)
optim_state = torch.load("optimizer.pt", weights_only=True)

mapping = match_flax_params(torch_model, params)
params = params_from_torch(model_state, params, mapping)
optimizer, opt_state = optimizer_from_torch(optim_state, params, mapping)
...  # continue from the same step
torch_model.load_state_dict(params_to_torch(params, mapping), strict=False)
torch_optimizer.load_state_dict(
    optimizer_to_torch(opt_state, params, mapping, optim_state["param_groups"])
)
```

This module does not import torch. It takes tensors and NumPy arrays alike, such as those of
`safetensors.numpy.load_file`. It returns torch tensors where the process has imported torch, and
NumPy arrays in a process without torch. A function that raises has changed nothing.

The running statistics of a batch norm are not parameters. `match_flax_statistics` makes a mapping
of their own. `compare_layers` says at which layer two models differ.
"""

from adadelta_jax.torch_interop.comparison import LayerDifference, compare_layers
from adadelta_jax.torch_interop.layouts import LeafLayout
from adadelta_jax.torch_interop.names import match_flax_params, match_flax_statistics
from adadelta_jax.torch_interop.optimizer import optimizer_from_torch, optimizer_to_torch
from adadelta_jax.torch_interop.weights import params_from_torch, params_to_torch

__all__ = [
    "LayerDifference",
    "LeafLayout",
    "compare_layers",
    "match_flax_params",
    "match_flax_statistics",
    "optimizer_from_torch",
    "optimizer_to_torch",
    "params_from_torch",
    "params_to_torch",
]

# Objects name the place where users find them, so that a pickled layout outlives a change of files.
for _name in __all__:
    globals()[_name].__module__ = __name__
