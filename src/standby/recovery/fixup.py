"""A Linux guest's name and addresses changed on its disks, before it starts: one session of guestfish."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from standby.errors import Recoverable
from standby.recovery.fixup_plan import READ, Edit, plan
from standby.recovery.fixup_wish import FixUp, FixUpRefused
from standby.recovery.guestfish import ApplianceFailed, Guestfish, needed

_LARGEST: Final = 1 << 20
_ENCRYPTED: Final = ("crypto_LUKS", "BitLocker")
_HINT: Final = "leave --set-hostname and --set-address away, and change the guest at its console"


class NotWritten(Recoverable):
    """What was written into the guest's disks did not get there; they are thrown away."""


def look(sockets: Sequence[Path], wish: FixUp, cards: int) -> list[Edit]:
    """What would be changed on disks that NBD servers serve; they are not written to. As `change`."""
    options = ["--ro", "--format=raw"]
    for socket in sockets:
        options += ["-a", f"nbd:///?socket={socket}"]
    with _mounted(options) as (fish, folder):
        return plan(_read(fish, folder), wish, cards)


def change(images: Sequence[Path], wish: FixUp, cards: int) -> list[Edit]:
    """Change the guest on these qcow2 images; what was changed. cards: how many the machine has.

    Raises FixUpRefused before anything of the guest's files was written. After any error the images are to be
    thrown away: a journal may have been replayed in them, or a part been written.
    """
    options = ["--format=qcow2"]
    for image in images:
        options += ["-a", str(image)]
    with _mounted(options) as (fish, folder):
        edits = plan(_read(fish, folder), wish, cards)
        for edit in edits:
            _write(fish, folder, edit)
        fish.ask("umount-all")
        # Its machine's last words: all is in the images then.
        fish.ask("shutdown")
    for image in images:
        with image.open("rb") as file:
            os.fsync(file.fileno())
    return edits


@contextlib.contextmanager
def _mounted(options: Sequence[str]) -> Iterator[tuple[Guestfish, Path]]:
    """With the guest's root mounted, and a directory of ours for files on their way."""
    needed("guest fix-up")
    with tempfile.TemporaryDirectory(prefix="standby-") as name:
        fish = Guestfish(options)
        try:
            fish.ask("run")
            _mount(fish)
            yield fish, Path(name)
        except BaseException:
            fish.terminate()
            raise
        finally:
            fish.end()


def _mount(fish: Guestfish) -> None:
    systems = fish.ask("list-filesystems")
    found = "; ".join(systems) or "no file system"
    roots = fish.ask("-inspect-os")
    if len(roots) != 1:
        encrypted = any(line.rpartition(": ")[2] in _ENCRYPTED for line in systems)
        cause = "it is encrypted" if encrypted else "no system is found on its disks"
        raise _refused("several systems are on its disks" if roots else cause, f"found {found}")
    (root,) = roots
    (kind,) = fish.ask("inspect-get-type", root)
    distribution = "".join(fish.ask("inspect-get-distro", root))
    if kind != "linux" or distribution == "nixos":
        raise _refused(
            f"its system is {distribution if kind == 'linux' else kind}, whose files are not known",
            f"found {found}",
        )
    points = [line.split(": ", 1) for line in fish.ask("inspect-get-mountpoints", root)]
    try:
        for place, device in sorted(points):
            if place == "/" or place.startswith("/etc"):
                fish.ask("mount", device, place)
                _refuse_errors(fish, device)
    except ApplianceFailed as error:
        raise _refused(f"its file system cannot be mounted: {error.said}", f"found {found}") from error


def _refuse_errors(fish: Guestfish, device: str) -> None:
    """The kernel mounts an ext file system that it knows to be damaged, too."""
    if fish.ask("vfs-type", device)[0].startswith("ext"):
        for line in fish.ask("tune2fs-l", device):
            if line.startswith("Filesystem state:") and "error" in line:
                raise _refused(f"its file system {device} has errors", line)


def _refused(cause: str, tried: str) -> FixUpRefused:
    return FixUpRefused(
        cause, subject="the guest", tried=f"guestfish {tried}; nothing was changed", hint=_HINT
    )


def _read(fish: Guestfish, folder: Path) -> dict[str, str]:
    files = {}
    for pattern in READ:
        for path in fish.ask("glob-expand", pattern):
            if fish.ask("is-file", path, "followsymlinks:true") != ["true"]:
                continue
            if int(fish.ask("filesize", path)[0]) > _LARGEST:
                raise _refused(f"its {path} is larger than any such file", "looked at its size")
            copy = folder / "read"
            fish.ask("download", path, str(copy))
            files[path] = copy.read_text(errors="surrogateescape")
    return files


def _write(fish: Guestfish, folder: Path, edit: Edit) -> None:
    parent = edit.path.rpartition("/")[0]
    copy = folder / "written"
    copy.write_text(edit.after, errors="surrogateescape")
    if edit.before is None:
        fish.ask("mkdir-p", parent)
    fish.ask("upload", str(copy), edit.path)
    if edit.before is None:
        fish.ask("chmod", "0600" if edit.private else "0644", edit.path)
        # SELinux's label, as whatever is made there gets it; a file system may have none.
        fish.ask("-copy-attributes", parent, edit.path, "xattributes:true")
    fish.ask("download", edit.path, str(copy))
    if copy.read_text(errors="surrogateescape") != edit.after:
        raise NotWritten("it is not as it was written", subject=edit.path, hint="fail over once more")
