"""Objects as files below a directory, durable and with conditional writes (docs/decisions/0003).

An object is the file of its name. Everything of the store's own lies in `~standby/`, which no object's
name can reach: the marker that makes the directory a store, temps, and lock files.

Relied upon, all of it given by local Linux file systems and by NFSv4 (hard mount, locks not local):
- link() and rename() are atomic, link() refuses an existing name; all in one file system.
- fsync() of a file and of a directory returns when both are durable on the server.
- flock() excludes other hosts too and ends with its holder (Linux maps it to NFS byte-range locks). A client
  cut off for longer than its lease loses the lock: a swap that it had compared and not yet renamed
  could then undo another's. Mount options `nolock` and `local_lock` make a store unsafe for two hosts.
- NFS clients cache directory entries: `list` of one host may lag behind a write of another by the mount's
  `acdirmax`, unless mounted with `lookupcache=none,noac`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

import blake3

from standby import failpoints
from standby.errors import Damaged, InvalidRequest
from standby.objects import durable
from standby.objects.answers import meaning
from standby.objects.base import Conflict, Entry, Object, ObjectMissing, StoreUnreachable, Version
from standby.objects.listing import NFS_LEFTOVER, walk
from standby.objects.marker import (
    LOCKS,
    MARKER,
    TEMPS,
    check_marker,
    make_store,
    make_working_directories,
    working_directories_exist,
)
from standby.objects.names import InvalidName, check_name, check_prefix

_put_written = failpoints.declare("directory.put.written")
_put_synced = failpoints.declare("directory.put.synced")
_put_renamed = failpoints.declare("directory.put.renamed")
_put_durable = failpoints.declare("directory.put.durable")
_absent_synced = failpoints.declare("directory.put_if_absent.synced")
_absent_linked = failpoints.declare("directory.put_if_absent.linked")
_absent_durable = failpoints.declare("directory.put_if_absent.durable")
_file_synced = failpoints.declare("directory.put_file.synced")
_file_linked = failpoints.declare("directory.put_file.linked")
_file_copied = failpoints.declare("directory.put_file.copied")
_swap_compared = failpoints.declare("directory.swap.compared")
_swap_renamed = failpoints.declare("directory.swap.renamed")
_delete_unlinked = failpoints.declare("directory.delete.unlinked")

_UNLINKABLE: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
)
"""Answers of link() after which a copy is made: other file system, protected_hardlinks, no links at all."""


class DirectoryStore:
    """An ObjectStore in a directory. Versions are hashes of the content.

    So a swap that writes back what an older version held brings that version back: content that is
    swapped must never repeat (a head carries a number that grows with every swap).
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the store at `path`; with `create`, make it first in a missing or empty directory.

        Raises NotAStore if there is none: a store is never written into an empty mount point.
        """
        self._path = path.absolute()
        self._known: set[str] = set()
        """Directories that this process has made durable, so that it need not ask again."""
        self._swept = False
        if create:
            make_store(self._path)
        check_marker(self._path)

    @property
    def url(self) -> str:
        return str(self._path)

    def put(self, name: str, data: bytes | memoryview) -> None:
        with self._call("put", name) as root, self._temp(root) as temp:
            durable.write_all(temp.fd, data)
            _put_written.reach()
            os.fsync(temp.fd)
            _put_synced.reach()
            self._replace(root, name, temp)

    def put_file(self, name: str, path: Path) -> None:
        """As in ObjectStore. Hard-links the file where that is possible: from then on both are one.

        Linked is only a file of our own user, as the object must not change hands with it. Raises
        InvalidRequest if the file cannot be read.
        """
        with self._call("put_file", name) as root, _source(path) as source:
            if self._link_source(root, name, path, source):
                return
            with self._temp(root) as temp:
                try:
                    durable.copy_all(source, temp.fd, os.fstat(source).st_size)
                except EOFError:
                    raise InvalidRequest("the file shrank while it was stored", subject=str(path)) from None
                _file_copied.reach()
                os.fsync(temp.fd)
                self._replace(root, name, temp)

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        with self._call("put_if_absent", name) as root, self._temp(root) as temp:
            durable.write_all(temp.fd, data)
            os.fsync(temp.fd)
            _absent_synced.reach()
            self._make_parents(root, name)
            won = _link_new(root, temp.path, name, os.fstat(temp.fd))
            _absent_linked.reach()
            # After a conflict too: the loser acts on what it met, which its writer may not have made
            # durable before it was killed.
            _sync_parent(root, name)
            _absent_durable.reach()
            return _version(data) if won else Conflict(name)

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        with self._call("swap", name) as root, self._temp(root) as temp:
            durable.write_all(temp.fd, data)
            os.fsync(temp.fd)
            with self._lock(root, name, exclusive=True):
                try:
                    current = _read(root, name)
                except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    return Conflict(name)
                won = _version(current) == old
                if won:
                    _swap_compared.reach()
                    os.rename(temp.path, name, src_dir_fd=root, dst_dir_fd=root)
                    _swap_renamed.reach()
            _sync_parent(root, name)
            return _version(data) if won else Conflict(name)

    def get(self, name: str) -> Object:
        with self._call("get", name) as root, self._present(name):
            data = _read(root, name)
        return Object(data, _version(data))

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        # Reading and hashing a head takes microseconds, and unlike its times and inode number, which
        # two swaps within one clock tick can bring back, the content cannot deceive.
        found = self.get(name)
        return None if found.version == known else found

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"no such range: {offset}, {length}")
        with (
            self._call("get_range", name) as root,
            self._present(name),
            durable.opened(name, os.O_RDONLY, root=root) as fd,
        ):
            data = durable.read_range(fd, offset, length)
            size = os.fstat(fd).st_size
        if len(data) < length or offset > size:
            raise Damaged(
                f"the object has {size} bytes, but {length} from {offset} on were to be read",
                subject=self._subject(name),
            )
        return data

    def size(self, name: str) -> int:
        with (
            self._call("size", name) as root,
            self._present(name),
            durable.opened(name, os.O_RDONLY, root=root) as fd,
        ):
            os.pread(fd, 1, 0)  # EISDIR: a directory is no object
            return os.fstat(fd).st_size

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._list(check_prefix(prefix), check_prefix(after))

    def delete(self, name: str) -> None:
        with self._call("delete", name) as root:
            try:
                with self._lock(root, name, exclusive=False):
                    os.unlink(name, dir_fd=root)
            except IsADirectoryError:
                return
            except (FileNotFoundError, NotADirectoryError):
                pass  # removed before, but perhaps not durably
            _delete_unlinked.reach()
            with suppress(FileNotFoundError, NotADirectoryError):
                _sync_parent(root, name)

    @contextmanager
    def _call(self, verb: str, name: str) -> Iterator[int]:
        """The store's directory, opened and proven to be the store's; what fails in it gets its meaning."""
        subject = self._subject(name)
        _check_file_name(name)
        with self._root(verb, subject) as root:
            try:
                yield root
            except OSError as error:
                self._known.clear()  # somebody may have removed directories
                raise meaning(error, verb, subject) from error

    @contextmanager
    def _root(self, verb: str, subject: str) -> Iterator[int]:
        try:
            root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._unmounted(verb, subject) from error
        except OSError as error:
            raise meaning(error, verb, subject) from error
        try:
            try:
                os.stat(MARKER, dir_fd=root)
            except FileNotFoundError as error:
                raise self._unmounted(verb, subject) from error
            except OSError as error:
                raise meaning(error, verb, subject) from error
            yield root
        finally:
            os.close(root)

    def _unmounted(self, verb: str, subject: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"{verb} not tried: the store's marker {MARKER} is gone, so its file system is not mounted",
            subject=subject,
            hint=f"mount it: findmnt --target {self._path}",
        )

    def _subject(self, name: str) -> str:
        return f"{self._path}/{name}"

    @contextmanager
    def _present(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissing("no such object", subject=self._subject(name)) from error

    @contextmanager
    def _temp(self, root: int) -> Iterator[durable.Temp]:
        if not self._swept:
            if not working_directories_exist(root):
                make_working_directories(root)
            durable.remove_dead_temps(root, TEMPS)
            self._swept = True
        with durable.temp_file(root, TEMPS) as temp:
            yield temp

    def _lock(self, root: int, name: str, *, exclusive: bool) -> AbstractContextManager[None]:
        """Keeps a swap's compare and rename apart from whatever else replaces or removes the name."""
        return durable.locked(root, f"{LOCKS}/{lock_of(name)}", exclusive=exclusive)

    def _make_parents(self, root: int, name: str) -> None:
        directory = name.rpartition("/")[0]
        if directory and directory not in self._known:
            durable.make_directory(root, directory)
            self._known.add(directory)

    def _replace(self, root: int, name: str, temp: durable.Temp) -> None:
        self._make_parents(root, name)
        with self._lock(root, name, exclusive=False):
            os.rename(temp.path, name, src_dir_fd=root, dst_dir_fd=root)
        _put_renamed.reach()
        _sync_parent(root, name)
        _put_durable.reach()

    def _link_source(self, root: int, name: str, path: Path, source: int) -> bool:
        """Whether the source is now the object. False: it has to be copied."""
        status = os.fstat(source)
        if status.st_uid != os.geteuid():
            return False
        mode = stat.S_IMODE(os.stat(MARKER, dir_fd=root).st_mode)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(source, mode)  # whoever may read the store must be able to read this object too
        os.fsync(source)
        _file_synced.reach()
        self._make_parents(root, name)
        try:
            with self._lock(root, name, exclusive=False):
                linked = _link_new(root, str(path.absolute()), name, status)
        except OSError as error:
            if error.errno in _UNLINKABLE:
                return False
            raise
        if linked:
            _file_linked.reach()
            _sync_parent(root, name)
        return linked

    def _list(self, prefix: str, after: str) -> Iterator[Entry]:
        subject = self._subject(prefix)
        with self._root("list", subject) as root:
            try:
                yield from walk(root, prefix.rpartition("/")[0], prefix, after)
            except OSError as error:
                raise meaning(error, "list", subject) from error


@contextmanager
def _source(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequest(
            f"the file to be stored cannot be read: {error.strerror}", subject=str(path)
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


def lock_of(name: str) -> str:
    """The lock file of a name. 256 for all names: they stay few, and a stopped holder blocks few."""
    return blake3.blake3(name.encode()).hexdigest()[:2]


def _check_file_name(name: str) -> None:
    if any(part.startswith(NFS_LEFTOVER) for part in check_name(name).split("/")):
        raise InvalidName(f"a part begins with {NFS_LEFTOVER}, which NFS clients use", subject=repr(name))


def _version(data: bytes) -> Version:
    return Version(blake3.blake3(data).hexdigest(length=16))


def _read(root: int, name: str) -> bytes:
    with durable.opened(name, os.O_RDONLY, root=root) as fd:
        return durable.read_all(fd)


def _sync_parent(root: int, name: str) -> None:
    """Make a name durable, or its removal. Any failure is an EIO: the change is seen already, so whatever the
    file system says, it is not true that nothing was written.
    """
    try:
        durable.sync_directory(root, name.rpartition("/")[0])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            errno.EIO, f"the directory could not be made durable: {error.strerror}", name
        ) from error


def _link_new(root: int, source: str, name: str, status: os.stat_result) -> bool:
    """Give the source the name unless it is taken: whether the name is now the source's."""
    try:
        os.link(source, name, src_dir_fd=root, dst_dir_fd=root)
    except FileExistsError:
        # NFS repeats a request whose answer was lost and is then told that the name exists: it may be ours.
        try:
            found = os.stat(name, dir_fd=root)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name) from None
        return os.path.samestat(found, status)
    return True
