"""A user's own instances: JSON files in the form of `Instance.to_dict` (.json, .json.gz)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.contracts import SPLITS, Dataset
from bench.errors import UserError
from bench.instance import Instance, InstanceError, read_json
from datasets._files import find_files

REQUIRED = (
    "an instance as JSON (see Instance.to_dict), or a folder of them, with subfolders train, "
    "validation, test for learning"
)


class Files(Dataset):
    """Instances from a file or a folder; each file holds one instance or a list of them.

    A folder with any of the subfolders train, validation, test has these splits. Otherwise all
    its files are the test split.

    Raises
    ------
    UserError
        When no file is found or the requested split does not exist.
    InstanceError
        When an instance is damaged or invalid; the message names the file, field and rule.
    """

    def __init__(
        self,
        name: str = "file",
        path: str | None = None,
        pattern: str = "*.json*",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.pattern = pattern
        self.hashes = dict(hashes or {})

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the instances of the split in the order of the names of the files."""
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
            return find_files(folder / split, {}, REQUIRED, self.pattern)
        if split != "test":
            raise UserError(
                f"dataset.path: value {self.path}: has no split {split}; "
                f"put those instances in a subfolder {split}/"
            )
        return find_files(self.path, {}, REQUIRED, self.pattern)
