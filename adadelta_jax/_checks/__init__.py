"""What users pass, checked once on each way, in words.

`settings` has the arguments of the factories, `step` those of `init` and `update`, `states` the
states passed elsewhere, `groups` and `shardings` their own; `trees` names leaves and differences.
"""
