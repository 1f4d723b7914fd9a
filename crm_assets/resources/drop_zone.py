"""A tenant's drop folder: what lies in it, and whether it is still being written.

A local path, or a URL of another machine (`remote_folders.py`). Files are evidence: nothing here moves, edits or
deletes one. What a file means is `logic/landing.py`'s business, and what became of it stands in the ledger
(`raw_store.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from crm_assets import settings
from crm_assets.resources.remote_folders import DropZoneError, RemoteFile, RemoteFolder, open_folder

# Seconds within which two changes may bear the same time: where times are whole seconds (FAT, some shares),
# and elsewhere, within a kernel's tick.
COARSE_TICK, FINE_TICK = 2.0, 0.1
CHUNK_BYTES = 1 << 20
# Copies of remote files: folders of this name, marked with the process that they belong to.
MAX_PATH_BYTES = 2000  # an index of PostgreSQL takes 2,704, and the hash stands beside the path
_COPIES = "crm-drop"
_LIKE_AN_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt])")
_KEEP_FREE_BYTES = 64 << 20

_TEMPORARY_ENDS = (".part", ".tmp", ".filepart", ".crdownload")
_TEMPORARY_STARTS = ("~$", ".")
# What desktops leave behind.
_NOT_EXPORTS = frozenset({"thumbs.db", "desktop.ini"})
# The stop sign for sending (spec.md §7). Desktops hide an extension, so any will do.
_STOP = re.compile(r"stop( *\.[^/]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class DroppedFile:
    """A file at one look. While `signature` stays, its content stays."""

    path: str  # relative to the drop folder, POSIX separators
    size_bytes: int
    modified_at: datetime
    signature: str
    is_fresh: bool  # touched so lately that the next write might not show in the signature


def is_ignored(path: str) -> bool:
    """Whether a name marks a file that is not (yet) an export: temporary, hidden, or a sign of ours."""
    parts = path.split("/")  # of a key of an object store any may be empty, or two dots
    return (
        any(part.startswith(_TEMPORARY_STARTS) for part in parts)
        or parts[-1].lower().endswith(_TEMPORARY_ENDS)
        or parts[-1].lower() in _NOT_EXPORTS
        or is_stop_sign(path)
    )


def is_stop_sign(path: str) -> bool:
    """Whether a file's name says that nothing may be sent: STOP, in any case, with any extension."""
    return _STOP.fullmatch(path.rpartition("/")[2].strip()) is not None


def shown_name(name: str) -> str:
    """A file's name as text that a person can read and a database keep: what is no character of it is escaped."""
    # A name that really holds a backslash must not be taken for another one's replacement.
    name = _LIKE_AN_ESCAPE.sub(r"\\x5c", name)
    if name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    is_odd = {character for character in text if unicodedata.category(character) in {"Cc", "Cf", "Cn", "Zl", "Zp"}}
    return "".join(c.encode("unicode_escape").decode() if c in is_odd else c for c in text)


def ledger_path(name: str) -> str:
    """The text that stands for a file's name: of an enormous one the ends, and what tells it from others with them."""
    path = shown_name(name)
    if len(path.encode()) <= MAX_PATH_BYTES:
        return path
    return f"{path[:200]}…{hashlib.sha256(path.encode()).hexdigest()[:16]}…{path[-120:]}"


def settled(before: Iterable[DroppedFile], after: Iterable[DroppedFile]) -> set[str]:
    """The paths that two looks saw alike: nobody is writing to them."""
    seen = {file.path: file.signature for file in before}
    return {file.path for file in after if seen.get(file.path) == file.signature}


class DropZone:
    """The drop folder of one tenant, local or remote. A remote one wants to be closed."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        options: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        owner: str = "",
    ) -> None:
        """`options` and `secrets` (name -> variable) as in the file `owner` of the tenant (docs/tenants.md)."""
        self.url = os.fspath(url)
        is_local = "://" not in self.url or self.url.startswith("file://")
        self._root = Path(self.url.removeprefix("file://")).resolve() if is_local else None
        self._options, self._secrets, self._owner = options or {}, secrets or {}, owner
        self._folder: RemoteFolder | None = None
        self._renamed: dict[str, str] = {}  # shown name -> the name as it is, where the two differ
        self._copy: tuple[str, tempfile.TemporaryDirectory[str]] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies on another machine, whose clock may differ from this one's."""
        return self._root is None

    def __enter__(self) -> DropZone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the copy and end the connection; a later question opens a new one."""
        self._drop_copy()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def exists(self) -> bool:
        """Whether the folder is there: an unmounted share is not an empty folder. DropZoneError: nobody knows."""
        if self._root is not None:
            return self._root.is_dir()
        with self._named():
            return self._remote().is_there()

    def list(self) -> Sequence[DroppedFile]:
        """All files that are exports by their name, ordered by path; none when the folder is not there."""
        files = self._list_local(self._root) if self._root is not None else self._list_remote()
        return sorted(files, key=lambda file: file.path)

    def stop_sign(self) -> str | None:
        """The path of a stop sign anywhere in the folder. DropZoneError: nobody knows, a missing folder included."""
        if not self.exists():
            raise DropZoneError(f"the drop folder {self.url} is not there; is a share not mounted?")
        if self._root is None:
            with self._named():
                return next((shown_name(file.name) for file in self._remote().files() if is_stop_sign(file.name)), None)

        def unreadable(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # gone since its own folder was read
                raise DropZoneError(f"the drop folder {self.url} cannot be read: {error.strerror}") from None

        for folder, folders, files in os.walk(self._root, onerror=unreadable):
            for name in (*files, *folders):
                if is_stop_sign(name):
                    return shown_name(os.path.relpath(os.path.join(folder, name), self._root))
        return None

    def look(self, path: str) -> DroppedFile | None:
        """One file as it is now; None when it is gone."""
        if self._root is not None:
            try:
                return _local_file(path, self._real(path).stat())
            except FileNotFoundError:
                return None
        with self._named():
            file = self._remote().look(self._renamed.get(path, path))
        return None if file is None else _remote_file(path, file)

    def open(self, path: str) -> BinaryIO:
        """The file's bytes as a stream; a remote file's as they were when it was last hashed."""
        return (self._real(path) if self._root is not None else self._copy_of(path)).open("rb")

    def sha256(self, path: str) -> str:
        """SHA-256 of the content as it is now."""
        self._drop_copy()
        digest = hashlib.sha256()
        with self.open(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A local path to the file's content: the file itself, or a copy.

        The copy is the one that was hashed, so that a file is fetched once; whether it has changed since, `look`
        says. There is one copy at a time, until the next file's or `close`.
        """
        yield self._real(path) if self._root is not None else self._copy_of(path)

    # --- local folders

    def _real(self, path: str) -> Path:
        """Where a path of ours lies; ValueError for one that leads out of the folder."""
        assert self._root is not None
        real = self._root / self._renamed.get(path, path)
        if not real.resolve().is_relative_to(self._root):
            raise ValueError(f"{path}: leads out of the drop folder")
        return real

    def _list_local(self, root: Path) -> Iterator[DroppedFile]:
        if not root.is_dir():
            return
        folders = [""]
        while folders:
            below = folders.pop()
            try:
                with os.scandir(f"{root}/{below}") as found:
                    entries = list(found)
            except FileNotFoundError:  # gone since its own folder was read, as below
                continue
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.name.startswith(_TEMPORARY_STARTS):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)  # not of links: what they hold inside this folder has its own place
                elif is_ignored(name):
                    continue
                elif entry.is_file() and (not entry.is_symlink() or self._is_inside(entry.path)):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # gone between listing and looking: it is not there
                        continue
                    yield _local_file(self._show(name), status)

    def _is_inside(self, link: str) -> bool:
        assert self._root is not None
        return Path(link).resolve().is_relative_to(self._root)

    def _show(self, name: str) -> str:
        path = ledger_path(name)
        if path != name:
            self._renamed[path] = name
        return path

    # --- other machines

    def _remote(self) -> RemoteFolder:
        if self._folder is None:
            values = {}
            for name, variable in self._secrets.items():
                value = settings.secret(variable)
                if value is None:
                    raise DropZoneError(f"key 'source.raw_secrets.{name}': the variable {variable} is not set")
                values[name] = value.get_secret_value()
            try:
                self._folder = open_folder(self.url, self._options, values)
            except ImportError as error:
                raise DropZoneError(f"key 'source.raw_url': {self.url} needs a package: {error}") from None
        return self._folder

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors say whose folder it is."""
        try:
            yield
        except DropZoneError as error:
            raise DropZoneError(f"{self._owner}: {error}" if self._owner else str(error)) from None

    def _list_remote(self) -> Iterator[DroppedFile]:
        with self._named():
            try:
                files = self._remote().files()
            except FileNotFoundError:
                return
        for file in files:
            path = self._show(file.name)
            if not is_ignored(path):
                yield _remote_file(path, file)

    def _copy_of(self, path: str) -> Path:
        """The local copy of a remote file, fetched unless it is there."""
        if self._copy is None or self._copy[0] != path:
            self._drop_copy()
            _remove_left_copies()
            with self._named():
                name = self._renamed.get(path, path)
                file = self._remote().look(name)
                if file is None:
                    raise FileNotFoundError(path)
                free = shutil.disk_usage(tempfile.gettempdir()).free - _KEEP_FREE_BYTES
                if file.size_bytes > free:
                    raise DropZoneError(
                        f"{path}: its {file.size_bytes >> 20} MiB do not fit into the {max(0, free) >> 20} MiB left in"
                        f" {tempfile.gettempdir()}: make room there, or name another folder in TMPDIR"
                    )
                folder = tempfile.TemporaryDirectory(prefix=f"{_COPIES}-{os.getpid()}-")
                try:
                    self._remote().fetch(name, Path(folder.name, "content"), file.size_bytes)
                except BaseException:
                    folder.cleanup()
                    raise
                self._copy = (path, folder)
        assert self._copy is not None
        return Path(self._copy[1].name, "content")

    def _drop_copy(self) -> None:
        if self._copy is not None:
            self._copy[1].cleanup()
            self._copy = None


def _remove_left_copies() -> None:
    """Remove the copies that killed processes left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_COPIES}-*-*"):
        owner = folder.name.split("-")[2]
        if owner.isdecimal() and not _is_alive(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _local_file(path: str, status: os.stat_result) -> DroppedFile:
    # A change cannot keep ctime; but two writes within one tick of the file system's clock share it.
    tick = COARSE_TICK if status.st_ctime_ns % 1_000_000_000 == 0 else FINE_TICK
    return DroppedFile(
        path=path,
        size_bytes=status.st_size,
        modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
        signature=f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}",
        is_fresh=time.time() - status.st_ctime_ns / 1e9 < tick,
    )


def _remote_file(path: str, file: RemoteFile) -> DroppedFile:
    age = None if file.modified_at is None else time.time() - file.modified_at.timestamp()
    return DroppedFile(
        path=path,
        size_bytes=file.size_bytes,
        modified_at=file.modified_at or datetime.fromtimestamp(0, UTC),
        signature=f"{file.size_bytes}:{file.modified_at.isoformat() if file.modified_at else ''}:{file.tag}",
        # Without a hash or a version of the server's, a second write within the tick would not show.
        is_fresh=not file.tag and (age is None or age < COARSE_TICK),
    )
