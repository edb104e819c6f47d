"""Benchmarks of speed. Each file without a leading underscore is one: it defines `rows(threads)`, dicts at once or in turn.

Keywords of `rows` with a default number or text are its options on the command line; a keyword `done` gets the rows that the
--json file already holds. It may define `THREADS`, its default (else 1), and `summary(rows)`, dicts shown in place of the rows.
`python -m bench.speed` runs them all, with `--help` lists them; a benchmark's docstring says what its figures mean.
"""
