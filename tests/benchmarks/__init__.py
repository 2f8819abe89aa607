"""Speed against the plain reference path, on the same work in the same process: `make bench`.

    python -m tests.benchmarks                        every row
    python -m tests.benchmarks statistics_5_layers    these rows; others keep what was measured before

A GPT-2-small-shaped model with random weights (12 blocks, width 768, vocabulary 50,257), the published 20
steps, fixed contexts. Fast and plain runs alternate and medians are reported; what takes minutes is run once,
what would take the plain path an hour is measured on a few facts and scaled, and the row says so. The rows of
SmolLM2-135M's shape are compared with the speed of a large matrix product instead (`utilisation.py`).

A new row is a function from `Workbench` to `Row` and a line of `ROWS` in `tests/benchmarks/__main__.py`.
"""
