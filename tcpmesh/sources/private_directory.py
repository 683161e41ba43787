"""
A directory that only its owner can use: opened once, checked, locked, and written so that a crash leaves whole files.

Ring 3. Everything goes through the directory's descriptor, so that nobody can exchange the path in between.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tcpmesh.codes import STATE_IN_USE, STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.sources.private_places import check_private, make_private

__all__ = ["PrivateDirectory"]

_LOCK = "lock"
_TEMPORARY = ".tmp"
_MAX_FILE = 1 << 20  # bytes; ours have a few thousand
_LOCK_ATTEMPTS = 25
_LOCK_PAUSE = 0.02  # seconds


class PrivateDirectory:
    """
    An open directory of mode 0700 that belongs to the process's user. Make it with :meth:`open`.

    :ivar path: for messages; not used again to find the directory.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._lock: int | None = None

    @classmethod
    def open(cls, path: Path, *, create: bool) -> PrivateDirectory:
        """
        Open the directory, and make it and its parent (not more) when they are missing and ``create`` is true.

        :raises StartError: STATE_UNUSABLE when it cannot be opened or others can get at it.
        """
        try:
            if create:
                make_private(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise StartError(STATE_UNUSABLE, f"{path} is not a directory") from None
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{path} cannot be opened: {error.strerror}") from error
        try:
            check_private(str(path), os.fstat(descriptor), "700")
        except StartError:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def close(self) -> None:
        """Give up the lock, if held, and the directory. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def lock(self, *, sleep: Callable[[float], object] = time.sleep) -> None:
        """
        Become the owner until :meth:`close`, or until the process ends in whatever way.

        Waits for half a second at most: others hold the lock for moments to see who has it.

        :raises StartError: STATE_IN_USE naming the owner, STATE_UNUSABLE when the file system cannot lock.
        """
        descriptor = self._open(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            for attempt in range(_LOCK_ATTEMPTS):
                if attempt:
                    sleep(_LOCK_PAUSE)
                if _try_lock(descriptor, fcntl.LOCK_EX):
                    break
            else:
                raise StartError(STATE_IN_USE, self._in_use(_pid_in(descriptor)))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self._remove_leftovers()
        except OSError as error:
            os.close(descriptor)
            raise StartError(STATE_UNUSABLE, f"{self.path} cannot be locked: {error.strerror}") from error
        except StartError:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def owner(self) -> int | None:
        """
        The process that holds the lock: its id, 0 when it is not known, None when nobody holds it.

        :raises StartError: STATE_UNUSABLE.
        """
        try:
            descriptor = os.open(_LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path / _LOCK} cannot be opened: {_why(error)}") from error
        try:
            return None if _try_lock(descriptor, fcntl.LOCK_SH) else _pid_in(descriptor)
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path} cannot be locked: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def read(self, name: str, *, secret: bool = True) -> bytes | None:
        """
        The whole file, None when there is none.

        :param secret: refuse it when others can get at it.
        :raises StartError: STATE_UNUSABLE when it cannot be read, is no regular file, is too large, or others can
            get at it.
        """
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._descriptor
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path / name} cannot be opened: {_why(error)}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StartError(STATE_UNUSABLE, f"{self.path / name} is not a regular file")
            if secret:
                check_private(str(self.path / name), status, "600")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path / name} cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)
        if len(data) > _MAX_FILE:
            raise StartError(STATE_UNUSABLE, f"{self.path / name} is larger than {_MAX_FILE} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """
        Put the file there whole, mode 0600, on the disk before this returns; only for who writes it alone.

        :raises StartError: STATE_UNUSABLE; the old file, if any, is as it was.
        """
        temporary = name + _TEMPORARY
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._descriptor)
            descriptor = os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
                dir_fd=self._descriptor,
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._descriptor)
            raise StartError(STATE_UNUSABLE, f"{self.path / name} cannot be written: {error.strerror}") from error

    def names(self) -> list[str]:
        """What is in the directory; :raises StartError: STATE_UNUSABLE."""
        try:
            return sorted(os.listdir(self._descriptor))  # noqa: PTH208  pathlib knows no descriptors
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path} cannot be read: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Remove the file, if there, for good before this returns; :raises StartError: STATE_UNUSABLE."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path / name} cannot be removed: {error.strerror}") from error

    def rename(self, name: str, new: str) -> None:
        """Give the file another name, for good before this returns; :raises StartError: STATE_UNUSABLE."""
        try:
            os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path / name} cannot be renamed: {error.strerror}") from error

    def open_file(self, name: str, *, create: bool) -> int | None:
        """
        Open the file, to read and, with ``create``, to write it; the caller closes the descriptor.

        :returns: None when there is none and none is to be made.
        :raises StartError: STATE_UNUSABLE when it cannot be opened, is no regular file, or others can get at it.
        """
        how = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        try:
            descriptor = self._open(name, how | os.O_NONBLOCK)
        except StartError as error:
            if isinstance(error.__cause__, FileNotFoundError) and not create:
                return None
            raise  # also when the whole directory was removed
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StartError(STATE_UNUSABLE, f"{self.path / name} is not a regular file")
            check_private(str(self.path / name), status, "600")
            if create and not status.st_size:
                os.fsync(self._descriptor)  # the entry of a new file
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open(self, name: str, flags: int) -> int:
        try:
            return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._descriptor)
        except OSError as error:
            raise StartError(STATE_UNUSABLE, f"{self.path / name} cannot be opened: {_why(error)}") from error

    def _remove_leftovers(self) -> None:
        """What a crash left half written; it may hold a key that nobody will ever use."""
        for name in os.listdir(self._descriptor):  # noqa: PTH208  pathlib knows no descriptors
            if name.endswith(_TEMPORARY):
                os.unlink(name, dir_fd=self._descriptor)

    def _in_use(self, pid: int) -> str:
        who = f"process {pid}" if pid else "another process"
        return (
            f"{self.path} is in use by {who}; stop that, or give this one a state of its own. To share the "
            f"authority instead, issue certificates with 'tcpmesh ca issue' and use the source plugin 'files' "
            f"with the bundle {self.path / 'bundle.pem'}"
        )


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed here; put the file itself there"
    return error.strerror or str(error)


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
