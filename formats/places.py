"""Where do the files of a collection lie? In a folder, or in a zip that is never unpacked.

Files are named by their path below the root, with forward slashes. Nothing outside of the root is
listed or read, unless links are followed because the user said so.
"""

import os
import posixpath
import re
import time
import unicodedata
import zipfile
from collections import defaultdict, deque
from collections.abc import Iterator
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from config import UserError
from formats.images import is_image_name

# A file may change twice within one tick of the clock that its time is taken from, in nanoseconds;
# so what was changed just now is looked at once more.
CLOCK_TICK = 20_000_000
MAX_BYTES = 1 << 30  # of one file within a zip or tar: more is meant to fill the memory
OUTSIDE = "paths that leave the folder"
MISSING = "pictures missing"
LINKS = "links out of the folder or to folders, which --set follow_links=true would read"
DRIVE = re.compile(r"[A-Za-z]+:/" if os.name == "posix" else r"[A-Za-z]+:")  # or http:/
THUMBNAILS = "@eaDir"
SPLITS = {"train": "train", "training": "train", "restval": "train", "test": "test",
          "testing": "test", "eval": "test", "evaluation": "test", "validation": "validation",
          "valid": "validation", "val": "validation", "dev": "validation"}  # fmt: skip
Skipped = dict[str, list[str]]  # reason -> what was left out for it


class Place:
    """Files below a root, without the litter of operating systems.

    files: their names, sorted, each with a number that changes when the file does.
    skipped: what is there and cannot be used.
    """

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, int] = {}
        self.skipped: Skipped = defaultdict(list)
        self._known_tails: dict[tuple[int, bool], dict[str, str]] = {}

    def find(self, folder: str, name: str) -> str:
        """The path of the file that is called `name` seen from `folder`; "" where there is none."""
        path = join(folder, name)
        return path if path in self.files else ""

    def find_tail(self, folder: str, name: str, anywhere: bool = False) -> tuple[str, int]:
        """The image that ends like `name` seen from `folder`, wherever that was written, and how
        well: twice the number of last parts that are the same, and one more with the suffix. "", 0
        where there is none, "", 1 where several may be meant. Case, accents, the kind of slashes
        and the suffix do not matter.

        A relative name has no part that the path contradicts, unless `anywhere`; that of an
        absolute one, which is of another machine, may begin in any way. Splits are never confused.
        """
        seen = folded(posixpath.join(folder, name))
        parts, known = seen.split("/"), folded(name).lstrip("./").split("/")
        for suffixed in (True, False):
            if not suffixed:
                parts[-1], known[-1] = without_suffix(parts[-1]), without_suffix(known[-1])
            for depth in range(1, len(parts) + 1):
                path = self._tails(depth, suffixed).get("/".join(parts[-depth:]))
                if path is None:
                    break
                if path:
                    theirs = folded(path if suffixed else without_suffix(path)).split("/")
                    same = len(posixpath.commonprefix([parts[::-1], theirs[::-1]]))
                    far = anywhere or is_absolute(name) or same >= min(len(known), len(theirs))
                    near = "/".join(parts[-same - 1 :])  # and the folder that differs
                    if far and len({split_of(near), split_of(path)} - {None}) < 2:
                        return path, 2 * same + suffixed
                    break
            else:
                return "", 1
            if depth > 1:
                return "", 1
        return "", 0

    def _tails(self, depth: int, suffixed: bool) -> dict[str, str]:
        """The last parts of the paths of images -> path, or "" where several end so."""
        if (tails := self._known_tails.get((depth, suffixed))) is None:
            tails = self._known_tails[depth, suffixed] = {}
            for path in filter(is_image_name, self.files):
                parts = folded(path if suffixed else without_suffix(path)).rsplit("/", depth)
                if len(parts) >= depth:
                    tail = "/".join(parts[-depth:])
                    tails[tail] = "" if tail in tails else path
        return tails

    def why_not(self, table: str, name: str) -> str:
        """Why no image is called so in this table."""
        path, root = join(posixpath.dirname(table), name), folded(str(self.root.absolute()))
        if path is None:
            return MISSING if folded(name).startswith(f"{root}/") else OUTSIDE
        parts = path.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return OUTSIDE if any(folder in self.links for folder in above) else MISSING

    @cached_property
    def links(self) -> set[str]:
        return {*self.skipped.get(LINKS, ())}

    def stamp(self, name: str) -> int:
        """A number that changes when the file does; 0 for none."""
        return self.files.get(name, 0)

    def open(self, name: str, span: tuple[int, int] | None = None) -> BinaryIO:
        """The file, or the `span` of it: where it begins, and how many bytes. Raises OSError."""
        raise NotImplementedError


class Folder(Place):
    """A folder. listed: False leaves `files` empty."""

    def __init__(self, root: Path, follow_links: bool = False, listed: bool = True):
        super().__init__(root)
        self.follow_links = follow_links
        self.newest = 0  # of all times at which a file was changed, in ns
        self.files = dict(sorted(self._walk())) if listed else {}
        if abs(time.time_ns() - self.newest) < CLOCK_TICK:
            time.sleep(CLOCK_TICK / 1e9)
            self.skipped.clear()
            self.files = dict(sorted(self._walk()))

    def _walk(self) -> Iterator[tuple[str, int]]:
        folders, seen = deque([""]), set()
        while folders:
            folder = folders.pop()
            try:
                if self.follow_links:
                    status = os.stat(self.root / folder)
                    if (identity := (status.st_dev, status.st_ino)) in seen:
                        continue
                    seen.add(identity)
                entries = list(os.scandir(self.root / folder))
            except OSError as error:
                self.skipped["folders that cannot be opened"].append(f"{folder} ({error.strerror})")
                continue
            above = f"{folder}/" if folder else ""
            for entry in entries:
                name = above + entry.name
                if entry.name == THUMBNAILS:
                    self.skipped["folders of thumbnails, which a NAS made"].append(name)
                if is_litter(entry.name):
                    continue
                if entry.is_file(follow_symlinks=False):  # no pipe, which would never end
                    try:
                        yield name, self._stamp(entry.stat())
                    except FileNotFoundError:  # removed since it was listed
                        continue
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif not entry.is_symlink():
                    continue
                elif os.path.isdir(entry.path) and self.follow_links:
                    folders.appendleft(name)  # links come last: nothing is read twice
                elif os.path.isdir(entry.path):
                    self.skipped[LINKS].append(name)
                elif not os.path.isfile(entry.path):
                    self.skipped["links that lead nowhere"].append(name)
                elif self.follow_links or is_inside(self.root, name):
                    yield name, self._stamp(os.stat(entry.path))
                else:
                    self.skipped[LINKS].append(name)

    def stamp(self, name: str) -> int:
        if name in self.files:
            return self.files[name]
        try:
            return self._stamp(os.stat(self.root / name))
        except OSError:
            return 0

    def _stamp(self, status: os.stat_result) -> int:
        self.newest = max(self.newest, status.st_mtime_ns)
        return hash((status.st_size, status.st_mtime_ns))  # the same in every process, of numbers

    def open(self, name: str, span: tuple[int, int] | None = None) -> BinaryIO:
        file = open(self.root / name, "rb")  # noqa: SIM115 (it is returned)
        if span is None:
            return file
        with file:
            file.seek(span[0])
            return BytesIO(file.read(span[1]))


class Zip(Place):
    """A zip, read in place."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.entries: dict[str, zipfile.ZipInfo] = {}
        entries = opened_zip(root, *self._state()).infolist()
        if any(info.flag_bits & 1 for info in entries):
            raise UserError(f"{root} is locked with a password; unpack it, and name the folder")
        for info in entries:
            if not info.filename or info.is_dir():
                continue
            path = join("", info.filename)
            if path is None:
                self.skipped[OUTSIDE].append(info.filename)
            elif path in self.entries:
                self.skipped["files that are twice in the zip"].append(info.filename)
            elif not any(map(is_litter, path.split("/"))):
                self.entries[path] = info
        self.files = {path: hash((self.entries[path].file_size, self.entries[path].CRC))
                      for path in sorted(self.entries)}  # fmt: skip

    def _state(self) -> tuple[int, ...]:
        """Another one where the zip has changed, or the process is another."""
        status = os.stat(self.root)
        return os.getpid(), status.st_size, status.st_mtime_ns, status.st_ino

    def open(self, name: str, span: tuple[int, int] | None = None) -> BinaryIO:
        entry = self.entries[name]
        if entry.file_size > MAX_BYTES:
            raise OSError(f"{name} in {self.root} would unpack to {entry.file_size:,} bytes")
        try:
            return BytesIO(opened_zip(self.root, *self._state()).read(entry))
        except Exception as error:  # encrypted, damaged, packed in an unknown way
            raise OSError(f"{name} in {self.root} cannot be unpacked: {error}") from error


@lru_cache(maxsize=8)
def opened_zip(path: Path, *state: int) -> zipfile.ZipFile:
    """Kept open, for each process by itself: two that share one would read at each other's place.

    state: of `Zip._state`. Raises UserError where it is no zip.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        told = f"{path} cannot be read as a zip, it is damaged, cut short or none: {error}"
        raise UserError(told) from error


def join(folder: str, name: str) -> str | None:
    """The path of `name` seen from `folder`; None where that leaves the root, or is no path."""
    if is_absolute(name):
        return None
    name = name.replace("\\", "/")
    path = posixpath.normpath(posixpath.join(folder, name))
    return None if path in (".", "..") or path.startswith(("/", "../")) else path


def is_absolute(name: str) -> bool:
    """Whether it is a path from a root or a drive, or an address: http://..."""
    return name.startswith(("/", "\\")) or bool(DRIVE.match(name.replace("\\", "/")))


def split_of(path: str) -> str | None:
    """The split that a file is of, as the names of its folders tell, the outermost first."""
    folders = path.lower().split("/")[:-1]
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), None)


def stem_of(path: str) -> str:
    """A path without its suffix."""
    return posixpath.splitext(path)[0]


def without_suffix(path: str) -> str:
    """The path of an image without its suffix; another one as it is: "v1.5" has none."""
    return stem_of(path) if is_image_name(path) else path


def folded(path: str) -> str:
    """The same for paths that differ in case, accents as macOS writes them, and slashes only."""
    return unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()


def is_inside(root: Path, path: str) -> bool:
    """Whether the relative `path`, links followed, stays below root."""
    if join("", path) is None:
        return False
    try:
        return Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))
    except ValueError:  # no name of a file: it holds a 0 byte or half a character
        return False


def is_litter(name: str) -> bool:
    return name.startswith(".") or name in (THUMBNAILS, "__MACOSX", "Thumbs.db", "desktop.ini")
