"""What an OSError of a file system means to the caller of a store."""

from __future__ import annotations

import errno
from typing import Final

from standby.errors import StandbyError
from standby.objects.base import StoreFull, StoreRefused, StoreUnreachable, StoreUnsuitable
from standby.objects.names import InvalidName

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG})
_CLASH: Final = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY})
_LACKING: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV})


def meaning(error: OSError, verb: str, subject: str) -> StandbyError:
    """The error to raise for `error`, met by `verb` on `subject`.

    What is not known to be final (EIO, ESTALE, ETIMEDOUT, too many open files, ...) is StoreUnreachable: to
    try again later is never wrong, and the message carries the system's own words.
    """
    code = error.errno or 0
    said = f"{verb} failed: {error.strerror or error} ({errno.errorcode.get(code, str(code))})"
    if code in _FULL:
        return StoreFull(said, subject=subject, hint="free space or raise the quota; it is tried again")
    if code in _REFUSED:
        return StoreRefused(
            said, subject=subject, hint="check the owner, the permissions and the mount options (ro)"
        )
    if code in _CLASH:
        return InvalidName(
            f"{said}: one of the two would be a directory",
            subject=subject,
            hint="in a directory store no object's name may be the first parts of another's",
        )
    if code in _LACKING:
        return StoreUnsuitable(
            f"{said}: the file system lacks locks or hard links, or another one is mounted inside the store",
            subject=subject,
            hint="use a local file system or NFSv4 as a whole",
        )
    return StoreUnreachable(
        said, subject=subject, hint="check the file system's mount and its device; it is tried again"
    )
