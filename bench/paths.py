"""Names that become parts of paths, and folders and files that a user names, checked in one place.

Every configured or foreign name goes through `path_component` before it is part of a path, so that
none leaves its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bench.errors import UserError, shortened

CACHE = "dl-scheduling-bench"  # the suite's folder in the user's cache
MAX_COMPONENT = 100  # bytes; file systems take 255, and suffixes follow
_COMPONENT = re.compile(r"\w[\w.+=,@-]*")


def path_component(field: str, name: object) -> str:
    """Return `name` where it may be one part of a path.

    It consists of letters, digits and `._-+=,@`, begins with a letter, a digit or `_`, and is at
    most `MAX_COMPONENT` bytes long; so it is never empty, `.` or `..`, and holds no separator,
    space or control character.

    Parameters
    ----------
    field
        Where the name was given, for the message, such as `dataset.name`.

    Raises
    ------
    UserError
        Where it may not.
    """
    if not isinstance(name, str):
        raise UserError(f"{field}: a string is needed, got {name!r}")
    if not _COMPONENT.fullmatch(name):
        raise UserError(
            f"{field}: value {shortened(name)}: must consist of letters, digits and ._-+=,@ and "
            "begin with a letter, a digit or _, because it names a folder; choose another name"
        )
    if len(name.encode()) > MAX_COMPONENT:
        raise UserError(
            f"{field}: value {shortened(name)}: must be at most {MAX_COMPONENT} bytes long, "
            "because it names a folder; choose a shorter name"
        )
    return name


def output_folder(field: str, path: str | Path) -> Path:
    """Return a folder that exists, or that can be made, and that can be written to.

    Raises
    ------
    UserError
        Where a file stands in its place or above it, or permission is missing.
    """
    folder = _usable(field, path)
    there = next(above for above in (folder, *folder.absolute().parents) if os.path.lexists(above))
    if not there.is_dir():
        raise UserError(
            f"{field}: value {shortened(str(path))}: {there} is no folder; name another folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"{field}: value {shortened(str(path))}: {there} cannot be written to; name another "
            "folder or change its permissions"
        )
    return folder


def own_folder(field: str, path: Path, files: Iterable[str] = ()) -> None:
    """Make a folder in which the suite writes and deletes files, two levels below a user's folder.

    Parameters
    ----------
    files
        Names of files that the suite writes there.

    Raises
    ------
    UserError
        Where the folder, the one above it or a file in it is a symbolic link: what is behind it is
        not the suite's own.
    """
    for one in (path.parent, path, *(path / name for name in files)):
        if one.is_symlink():
            raise UserError(
                f"{field}: {one} is a symbolic link, and the suite writes and deletes only in "
                "folders of its own; delete the link or name another folder"
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{field}: {path} cannot be made ({error.strerror})") from None


def output_file(field: str, path: str | Path) -> Path:
    """Return a file that can be written: it is no folder, and its folder is an `output_folder`.

    Raises
    ------
    UserError
        Where it cannot.
    """
    file = _usable(field, path)
    if file.is_dir():
        raise UserError(f"{field}: value {shortened(str(path))}: is a folder; name a file")
    output_folder(field, file.parent)
    if file.exists() and not os.access(file, os.W_OK):
        raise UserError(
            f"{field}: value {shortened(str(path))}: cannot be written to; name another file or "
            "change its permissions"
        )
    return file


def input_file(field: str, path: str | Path) -> Path:
    """Return a file that exists and can be read.

    Raises
    ------
    UserError
        Where it does not exist, is a folder or cannot be read.
    """
    file = _usable(field, path)
    if not file.exists():
        raise UserError(f"{field}: {shortened(str(path), quoted=False)} does not exist")
    if file.is_dir():
        raise UserError(f"{field}: value {shortened(str(path))}: is a folder; name a file")
    if not os.access(file, os.R_OK):
        raise UserError(f"{field}: value {shortened(str(path))}: cannot be read; permission denied")
    return file


def _usable(field: str, path: str | Path) -> Path:
    """Return the path where the system takes it at all: not empty, not too long, no null byte."""
    text = str(path)
    try:
        if not text.strip() or "\0" in text:
            raise UserError(f"{field}: value {shortened(text)}: is no path; name a file or folder")
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{field}: value {shortened(text)}: is no path ({reason})") from None
    return Path(text)
