"""Benchmarks of speed. Each file here without a leading underscore is one: it defines `rows(threads) -> list of dicts`.

`python -m bench.speed` runs them all, with `--help` lists them; a benchmark's docstring says what its figures mean.
"""
