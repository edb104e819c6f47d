"""A user's own instances: JSON files in the form of `Instance.to_dict` (.json, .json.gz)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.contracts import SPLITS, Dataset
from bench.errors import UserError
from bench.instance import Instance, InstanceError, read_json
from datasets._files import equal_files, find_files, other_files
from datasets._reading import Reading

REQUIRED = (
    "an instance as JSON (see Instance.to_dict), or a folder of them, with subfolders train, "
    "validation, test for learning"
)


class Files(Dataset):
    """Instances from a file or a folder; each file holds one instance or a list of them.

    A folder with any of the subfolders train, validation, test has these splits. Otherwise all
    its files are the test split.

    Parameters
    ----------
    path
        File or folder.
    pattern
        Shell pattern of the names of the files in a folder, with or without .gz.

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
        pattern: str = "*.json",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.pattern = pattern
        self.hashes = dict(hashes or {})
        self._reported: set[str] = set()  # splits of which the line of the reader was logged

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the instances of the split in the order of the names of the files."""
        files = self._files(split)
        reading = Reading(files[0].parent if len(files) > 1 else files[0], "instances")
        for file in files:
            where = str(file)
            try:
                data = read_json(file)
                if data == []:
                    raise InstanceError("holds an empty list; give at least one instance")
                for i, item in enumerate(data if isinstance(data, list) else [data]):
                    where = f"{file}, instance {i}" if isinstance(data, list) else str(file)
                    yield Instance.from_dict(item)
                    reading.use()
            except InstanceError as error:
                raise InstanceError(f"{where}: {error}") from None
        if split not in self._reported:
            self._reported.add(split)
            folder = self._folder(split)
            reading.ignore_files(other_files(folder, files))
            if equal := equal_files(files):
                first, second = equal[0]
                reading.note(
                    f"{len(equal)} files have the content of another one, such as {second.name} "
                    f"that of {first.name}"
                )
            if folder and folder != Path(self.path or "").expanduser():
                reading.ignore_files(other_files(folder.parent, []), "beside the splits")
            reading.finish()

    def _folder(self, split: str) -> Path | None:
        """Return where the files of a split are; None: no path was given."""
        path = Path(self.path).expanduser() if self.path else None
        if path and any((path / name).is_dir() for name in SPLITS):
            return path / split
        if split != "test":
            raise UserError(
                f"dataset.path: value {self.path}: has no split {split}; "
                f"put those instances in a subfolder {split}/"
            )
        return path

    def _files(self, split: str) -> list[Path]:
        return find_files(self._folder(split), {}, REQUIRED, self.pattern, may_be_equal=True)
