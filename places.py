"""Where do the files of a collection lie? In a folder, or in a zip that is never unpacked.

Files are named by their path below the root, with forward slashes. Nothing outside of the root is
listed or read, unless links are followed because the user said so.
"""

import os
import posixpath
import re
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from command_line import UserError

# A file may change twice within one tick of the clock that its time is taken from, in nanoseconds;
# so what was changed just now is looked at once more.
CLOCK_TICK = 20_000_000
MAX_BYTES = 1 << 30  # of one file within a zip or tar: more is meant to fill the memory
OUTSIDE = "paths that leave the folder"
MISSING = "pictures missing"
LINKS = "links out of the folder or to folders, which --follow-links would read"

DRIVE = re.compile(r"[A-Za-z]+:/" if os.name == "posix" else r"[A-Za-z]+:")  # or http:/
Skipped = dict[str, list[str]]  # reason -> what was left out for it


class Folder:
    """The files below a folder, without the litter of operating systems.

    files: their names, sorted, each with a number that changes when the file does.
    listed: False leaves `files` empty; `find` works all the same.
    """

    def __init__(self, root: Path, follow_links: bool = False, listed: bool = True):
        self.root, self.follow_links = root, follow_links
        self.skipped: Skipped = defaultdict(list)
        self.newest = 0  # of all times at which a file was changed, in ns
        self.files: dict[str, int] = dict(sorted(self._walk())) if listed else {}
        if time.time_ns() - self.newest < CLOCK_TICK:
            time.sleep(CLOCK_TICK / 1e9)
            self.skipped.clear()
            self.files = dict(sorted(self._walk()))

    def _walk(self) -> Iterator[tuple[str, int]]:
        folders, seen = [""], {_identity(os.stat(self.root))}
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except OSError as error:
                self.skipped["folders that cannot be opened"].append(f"{folder} ({error.strerror})")
                continue
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if is_litter(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                    if self.follow_links:
                        seen.add(_identity(entry.stat()))
                elif entry.is_file(follow_symlinks=False):  # no pipe, which would never end
                    with suppress(FileNotFoundError):  # removed since it was listed
                        yield name, self._stamp(entry.stat())
                elif not entry.is_symlink():
                    continue
                elif os.path.isdir(entry.path):
                    identity = _identity(os.stat(entry.path))
                    if not self.follow_links:
                        self.skipped[LINKS].append(name)
                    elif identity not in seen:  # not round in circles
                        folders.append(name)
                        seen.add(identity)
                elif not os.path.isfile(entry.path):
                    self.skipped["links that lead nowhere"].append(name)
                elif self.follow_links or is_inside(self.root, name):
                    yield name, self._stamp(os.stat(entry.path))
                else:
                    self.skipped[LINKS].append(name)

    def find(self, folder: str, name: str) -> tuple[str, str]:
        """The path of the file that is called `name` seen from `folder`, and ""; or "" and why
        there is none."""
        path = join(folder, name)
        if path is None:
            return "", OUTSIDE
        if path in self.files:
            return path, ""
        if not os.path.isfile(self.root / path):  # Path.is_file raises for too long names
            return "", MISSING
        inside = self.follow_links or is_inside(self.root, path)
        return (path, "") if inside else ("", OUTSIDE)

    def stamp(self, name: str) -> int:
        """A number that changes when the file does; 0 for none."""
        if name not in self.files:
            try:
                return self._stamp(os.stat(self.root / name))
            except OSError:
                return 0
        return self.files[name]

    def _stamp(self, status: os.stat_result) -> int:
        self.newest = max(self.newest, status.st_mtime_ns)
        return stamp(status.st_size, status.st_mtime_ns)

    def open(self, name: str, span: tuple[int, int] | None = None) -> BinaryIO:
        """The file, or the `span` of it: where it begins, and how many bytes."""
        file = open(self.root / name, "rb")  # noqa: SIM115 (it is returned)
        if span is None:
            return file
        with file:
            file.seek(span[0])
            return BytesIO(file.read(span[1]))


class Zip:
    """The files in a zip, read in place; the same as `Folder`, but that nothing in it is a link."""

    def __init__(self, root: Path):
        self.root = root
        self.skipped: Skipped = defaultdict(list)
        found: dict[str, int] = {}
        self.names: dict[str, str] = {}  # path -> what the zip calls it
        for info in opened_zip(root, *self.state()).infolist():
            if not info.filename or info.is_dir():
                continue
            path = join("", info.filename)
            if path is None:
                self.skipped[OUTSIDE].append(info.filename)
            elif path in found:
                self.skipped["files that are twice in the zip"].append(info.filename)
            elif not any(map(is_litter, path.split("/"))):
                found[path] = stamp(info.file_size, info.CRC)
                self.names[path] = info.filename
        self.files = dict(sorted(found.items()))

    def find(self, folder: str, name: str) -> tuple[str, str]:
        path = join(folder, name)
        if path is None:
            return "", OUTSIDE
        return (path, "") if path in self.files else ("", MISSING)

    def stamp(self, name: str) -> int:
        return self.files.get(name, 0)

    def state(self) -> tuple[int, ...]:
        """Another one where the zip has changed, or the process is another."""
        status = os.stat(self.root)
        return os.getpid(), status.st_size, status.st_mtime_ns, status.st_ino

    def open(self, name: str, span: tuple[int, int] | None = None) -> BinaryIO:
        archive = opened_zip(self.root, *self.state())
        name = self.names[name]
        size = archive.getinfo(name).file_size
        if size > MAX_BYTES:
            raise OSError(f"{name} in {self.root} would unpack to {size:,} bytes")
        try:
            return BytesIO(archive.read(name))
        except Exception as error:  # encrypted, damaged, packed in an unknown way
            raise OSError(f"{name} in {self.root} cannot be unpacked: {error}") from None


Place = Folder | Zip


@lru_cache(maxsize=8)
def opened_zip(path: Path, *state: int) -> zipfile.ZipFile:
    """Kept open, for each process by itself: two that share one would read at each other's place.

    state: of `Zip.state`. Raises UserError where it is no zip.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as a zip: {error}") from None


def join(folder: str, name: str) -> str | None:
    """The path of `name` seen from `folder`; None where that leaves the root, or is no path."""
    name = name.replace("\\", "/")
    if name.startswith("/") or DRIVE.match(name) or ".." in name.split("/"):
        return None
    path = posixpath.normpath(posixpath.join(folder, name))
    return None if path in (".", "..") or path.startswith(("/", "../")) else path


def is_inside(root: Path, path: str) -> bool:
    """Whether the relative `path`, links followed, stays below root."""
    if join("", path) is None:
        return False
    try:
        return Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))
    except ValueError:  # no name of a file: it holds a 0 byte or half a character
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_litter(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def stamp(*numbers: int) -> int:
    """One number of several, the same in every process."""
    return hash(numbers)
