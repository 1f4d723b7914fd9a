"""A tenant's drop folder: what lies in it, and whether it is still being written.

A local path or any fsspec URL. Files are evidence: nothing here moves, edits or deletes one. What a file
means is `logic/landing.py`'s business, and what became of it stands in the ledger (`raw_store.py`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

CHUNK_BYTES = 1 << 20
# Seconds within which two changes may bear the same time: where times are whole seconds (FAT, some shares),
# and elsewhere, within a kernel's tick.
COARSE_TICK, FINE_TICK = 2.0, 0.1
_MODIFIED_KEYS = ("LastModified", "last_modified", "mtime", "modified", "created")
_TAG_KEYS = ("ETag", "etag", "md5Hash", "content_md5")

_TEMPORARY_ENDS = (".part", ".tmp", ".filepart", ".crdownload")
_TEMPORARY_STARTS = ("~$", ".")
# A stop sign for sending (spec.md §7), and what desktops leave behind.
_NOT_EXPORTS = frozenset({"stop", "stop.txt", "thumbs.db", "desktop.ini"})


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
    parts = PurePosixPath(path).parts
    return (
        any(part.startswith(_TEMPORARY_STARTS) for part in parts)
        or parts[-1].lower().endswith(_TEMPORARY_ENDS)
        or parts[-1].lower() in _NOT_EXPORTS
    )


def settled(before: Iterable[DroppedFile], after: Iterable[DroppedFile]) -> set[str]:
    """The paths that two looks saw alike: nobody is writing to them."""
    seen = {file.path: file.signature for file in before}
    return {file.path for file in after if seen.get(file.path) == file.signature}


class DropZone:
    """The drop folder of one tenant, local or remote."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url)
        is_local = "://" not in self.url or self.url.startswith("file://")
        self._root = Path(self.url.removeprefix("file://")).resolve() if is_local else None
        self._renamed: dict[str, Path] = {}  # names in an old encoding, under the text that stands for them

    def exists(self) -> bool:
        """Whether the folder is there: an unmounted share is not an empty folder."""
        if self._root is not None:
            return self._root.is_dir()
        filesystem, root = self._remote()
        return bool(filesystem.exists(root))

    def list(self) -> Sequence[DroppedFile]:
        """All files that are exports by their name, ordered by path; none when the folder is not there."""
        files = self._list_local() if self._root is not None else self._list_remote()
        return sorted(files, key=lambda file: file.path)

    def look(self, path: str) -> DroppedFile | None:
        """One file as it is now; None when it is gone."""
        if self._root is not None:
            try:
                return _local_file(path, self._real(path).stat())
            except FileNotFoundError:
                return None
        filesystem, root = self._remote()
        full = f"{root}/{path}"
        filesystem.invalidate_cache(full)
        try:
            return _remote_file(filesystem, path, filesystem.info(full))
        except FileNotFoundError:
            return None

    def open(self, path: str) -> IO[bytes]:
        """The file's bytes as a stream."""
        if self._root is not None:
            return self._real(path).open("rb")
        filesystem, root = self._remote()
        stream: IO[bytes] = filesystem.open(f"{root}/{path}", "rb")
        return stream

    def sha256(self, path: str) -> str:
        """SHA-256 of the content, read in chunks."""
        digest = hashlib.sha256()
        with self.open(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A local path to the file's content: the file itself, or a copy that lives as long as the block."""
        if self._root is not None:
            yield self._real(path)
            return
        with tempfile.TemporaryDirectory(prefix="crm-drop-") as folder:
            copy = Path(folder) / "content"
            with self.open(path) as stream, copy.open("wb") as sink:
                while chunk := stream.read(CHUNK_BYTES):
                    sink.write(chunk)
            yield copy

    # --- local folders

    def _real(self, path: str) -> Path:
        """Where a path of ours lies; ValueError for one that leads out of the folder."""
        assert self._root is not None
        real = self._renamed.get(path, self._root / path)
        if not real.resolve().is_relative_to(self._root):
            raise ValueError(f"{path}: leads out of the drop folder")
        return real

    def _list_local(self) -> Iterator[DroppedFile]:
        assert self._root is not None
        if not self._root.is_dir():
            return
        # os.walk does not enter linked folders: what they hold inside this one is found at its own place.
        for folder, names, files in os.walk(self._root, onerror=_raise):
            names[:] = [name for name in names if not name.startswith(_TEMPORARY_STARTS)]
            for name in files:
                real = Path(folder, name)
                path = real.relative_to(self._root).as_posix()
                if not path.isprintable():
                    path = os.fsencode(path).decode("utf-8", "backslashreplace")
                    self._renamed[path] = real
                if is_ignored(path) or not real.resolve().is_relative_to(self._root):
                    continue
                try:
                    status = real.stat()
                except FileNotFoundError:  # gone between listing and looking: it is not there
                    continue
                if real.is_file():
                    yield _local_file(path, status)

    # --- fsspec

    def _remote(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(self.url)
        return filesystem, str(root).rstrip("/")

    def _list_remote(self) -> Iterator[DroppedFile]:
        filesystem, root = self._remote()
        filesystem.invalidate_cache(root)
        if not filesystem.exists(root):
            return
        for full, info in filesystem.find(root, detail=True).items():
            path = full[len(root) :].lstrip("/")
            if path and not is_ignored(path):
                yield _remote_file(filesystem, path, info)


def _raise(error: OSError) -> None:
    raise error


def _local_file(path: str, status: os.stat_result) -> DroppedFile:
    # A change cannot keep ctime; but two writes within one tick of the file system's clock share it.
    tick = COARSE_TICK if status.st_ctime_ns % 1_000_000_000 == 0 else FINE_TICK
    age = datetime.now(UTC).timestamp() - status.st_ctime_ns / 1e9
    return DroppedFile(
        path=path,
        size_bytes=status.st_size,
        modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
        signature=f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}",
        is_fresh=age < tick,
    )


def _remote_file(filesystem: Any, path: str, info: dict[str, Any]) -> DroppedFile:
    modified = next((info[key] for key in _MODIFIED_KEYS if key in info), None)
    if modified is None:
        modified = filesystem.modified(info["name"])
    if isinstance(modified, int | float):
        modified = datetime.fromtimestamp(modified, UTC)
    elif isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    tag = next((info[key] for key in _TAG_KEYS if info.get(key)), "")
    return DroppedFile(
        path=path,
        size_bytes=int(info["size"] or 0),
        modified_at=modified,
        signature=f"{info['size']}:{modified.isoformat()}:{tag}",
        is_fresh=not tag and (datetime.now(UTC) - modified).total_seconds() < COARSE_TICK,
    )
