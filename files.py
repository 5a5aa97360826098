"""How is a file written whole, and a folder used by one process at a time?"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from config import UserError


def write_whole(
    path: Path, write: Callable[[BinaryIO], object], keep_previous: bool = False
) -> None:
    """Let `write` fill a temporary file, flush it to the disk, and rename it over `path`.

    Whatever happens meanwhile, `path` holds the old content or the new one, never a part.
    keep_previous: the old content stays, as `previous(path)`.
    Raises UserError where the disk is full, gone or read-only; the old content is then unchanged.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            second_name = path.with_name(f"{path.name}.{os.getpid()}.old.tmp")
            try:
                os.link(path, second_name)
            except OSError:  # a file system without a second name for one file
                shutil.copy2(path, second_name)
            os.replace(second_name, previous(path))
            second_name.unlink(missing_ok=True)  # left where both are one file already
        os.replace(temporary, path)
    except OSError as error:
        for litter in path.parent.glob(f"{path.name}.{os.getpid()}.*tmp"):
            with suppress(OSError):  # of a folder that is read-only by now
                litter.unlink()
        raise UserError(
            f"{path} cannot be written: {error}; what was there is unchanged"
        ) from error
    if os.name == "posix":  # so that the new name, too, survives a power cut
        with suppress(OSError):  # of file systems that do without
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text."""
    write_whole(path, lambda file: file.write(text.encode()))


def previous(path: Path) -> Path:
    """Where the content before the newest is kept."""
    return path.with_suffix(f".previous{path.suffix}")


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file `path` for this process alone; made if need be, with its folder, and left.

    The operating system lets go of it when the process ends, however it does: no lock is stale.
    wait: until another process lets go of it; else that raises UserError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error}") from error
    with file:
        try:
            waiting = False
            while not _lock(file.fileno()):
                file.seek(0)
                other = f"another process (number {file.read().strip()})"
                if not wait:
                    raise UserError(
                        f"{path.parent} is in use by {other}; wait for it to end, or choose "
                        "another name"
                    )
                if not waiting:
                    print(f"waiting for {other}, which holds {path}")
                waiting = True
                time.sleep(0.1)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except OSError as error:
            raise UserError(f"{path} cannot be locked: {error}") from error
        yield


def _lock(descriptor: int) -> bool:
    """Whether this process holds it now; False where another one does."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # behind the text: others may read that
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True
