"""What a step moves, keeps and sends on TPUs and GPUs, by their own compilers: nothing is run."""

import os

# JAX reads these when it is imported. libtpu else takes a lock that no second process gets, and
# looks for a TPU's host on the network.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
