"""What benchmarks share: contenders, their check, time and memory, and what is written of them."""
