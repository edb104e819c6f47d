"""Anyone's instances: JSON files in the form of `Instance.to_dict` (.json, .json.gz), each one instance or a list of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.contracts import SPLITS
from bench.errors import UserError
from bench.instance import Instance, InstanceError, read_json
from datasets._files import find

NEED = "an instance as JSON (see Instance.to_dict), or a folder of them, with subfolders train, validation, test for learning"


class Files:
    """A file, or a folder whose files are the test split; with subfolders train, validation, test, each is its split.

    Raises:
        UserError: where nothing is found, or a split that is asked for is not there.
        InstanceError: for a damaged or invalid instance, naming the file, the field and the rule.
    """

    def __init__(
        self,
        name: str = "file",
        path: str | None = None,
        pattern: str = "*.json*",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.path, self.pattern, self.hashes = name, path, pattern, dict(hashes or {})

    def instances(self, split: str) -> Iterator[Instance]:
        """The split's instances in the order of the files' names."""
        for file in self._files(split):
            where = str(file)
            try:
                data = read_json(file)
                for i, item in enumerate(data if isinstance(data, list) else [data]):
                    where = f"{file}, instance {i}" if isinstance(data, list) else str(file)
                    yield Instance.from_dict(item)
            except InstanceError as error:
                raise InstanceError(f"{where}: {error}") from None

    def _files(self, split: str) -> list[Path]:
        folder = Path(self.path).expanduser() if self.path else None
        if folder and any((folder / name).is_dir() for name in SPLITS):
            return find(folder / split, {}, NEED, self.pattern)
        if split != "test":
            raise UserError(
                f"dataset.path: {self.path} has no split {split}; put those instances in a subfolder {split}/"
            )
        return find(self.path, {}, NEED, self.pattern)
