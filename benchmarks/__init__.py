"""What the documents say of speed, memory, state and training, measured.

Each folder answers one question; `common` has what they share. `python -m benchmarks.tables` writes
the tables of the documents from the results of all of them.
"""
