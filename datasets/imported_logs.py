"""The former name of `datasets.logs.imported`, for scripts; it goes with `bench.renamed`."""

from datasets.logs.imported import ImportedLogs

__all__ = ["ImportedLogs"]
