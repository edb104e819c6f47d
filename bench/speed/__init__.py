"""Speed benchmarks. Each module of this package without a leading underscore is one benchmark.

A benchmark defines `rows(threads, ...)`, which returns or yields its results, one dictionary per
row of the table. Every further parameter of `rows` whose default is a number or a string is an
option on the command line. A parameter named `done` receives the rows that the --json file already
holds. A benchmark may define `THREADS`, its default number of threads (else 1), and
`summary(rows)`, which returns the rows of a table that is printed instead.

`python -m bench.speed` runs all benchmarks, `--help` lists them. The docstring of a benchmark says
what its numbers mean.
"""
