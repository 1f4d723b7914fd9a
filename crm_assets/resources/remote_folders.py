"""Folders on other machines: S3 and Azure (and any other fsspec file system), and SFTP.

Each answers four questions: is it there, what lies in it, what is this file now, what does it hold. All of them have
a time limit, and none writes. What the files mean, and where the copies go, is `drop_zone.py`'s business.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import stat
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

# Seconds. A listing of 100,000 objects is a hundred answers; a file is given up when nothing more of it arrives.
CONNECT_SECONDS, ANSWER_SECONDS, LISTING_SECONDS, STALL_SECONDS = 10, 30, 120, 60
SLOWEST_BYTES_PER_SECOND = 50_000
CHUNK_BYTES = 4 << 20
_MODIFIED_KEYS = ("LastModified", "last_modified", "mtime", "modified", "created")
_TAG_KEYS = ("ETag", "etag", "md5Hash", "content_md5")


class DropZoneError(Exception):
    """A drop folder that cannot be used now: where it is, which key of the tenant's file, and why. No secret."""


class _FileFaultError(OSError):
    """The server answers, and says that this one file cannot be read."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote folder at one look."""

    name: str  # relative to the folder, as the server spells it
    size_bytes: int
    modified_at: datetime | None
    tag: str  # a hash or version that the server keeps of the content; empty where it keeps none


class RemoteFolder(Protocol):
    """What a drop zone asks of another machine. Errors about one file are OSErrors, all others DropZoneErrors."""

    def is_there(self) -> bool:
        """Whether the folder exists; a bucket without a key is an empty folder."""

    def files(self) -> list[RemoteFile]:
        """All regular files, seen in one pass; FileNotFoundError when the folder is not there."""

    def look(self, name: str) -> RemoteFile | None:
        """One file as it is now; None when it is gone."""

    def fetch(self, name: str, target: Path, size_bytes: int) -> None:
        """Write the file's content to a local path."""

    def close(self) -> None:
        """End the connection."""


def open_folder(url: str, options: Mapping[str, Any], secrets: Mapping[str, str]) -> RemoteFolder:
    """The folder behind a URL. `options` and `secrets` are those of the tenant's file, secrets by value."""
    protocol = url.partition("://")[0]
    if protocol in {"sftp", "ssh"}:
        return SftpFolder(url, options, secrets)
    return FsspecFolder(url, options, secrets)


@contextmanager
def _errors(where: str, secrets: Mapping[str, str], *, about_file: str = "") -> Iterator[None]:
    """Whatever a driver raises as what it means: this file, or the folder as a whole. Never with a secret in it."""
    from fsspec.exceptions import FSTimeoutError

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", about_file or where) from None
    except PermissionError as error:
        if about_file:
            raise PermissionError(errno.EACCES, "permission denied", about_file) from None
        raise DropZoneError(f"{where}: access is denied: {_plain(error, secrets)}") from None
    except (FSTimeoutError, TimeoutError):
        raise DropZoneError(f"{where}: the server does not answer in time") from None
    except (DropZoneError, _FileFaultError):
        raise
    except Exception as error:
        raise DropZoneError(f"{where}: {_plain(error, secrets)}") from None


def _plain(error: BaseException, secrets: Mapping[str, str]) -> str:
    """An error in one line, secrets blotted out."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for value in secrets.values():
        text = text.replace(value, "***") if value else text
    return text[:300]


def _content(options: Mapping[str, Any], name: str) -> bytes | None:
    """The file that an option names. That it is missing must not be taken for a missing drop folder."""
    if not options.get(name):
        return None
    try:
        return Path(str(options[name])).read_bytes()
    except OSError as error:
        raise DropZoneError(f"key 'source.raw_options.{name}': {options[name]}: {error.strerror}") from None


# --- fsspec


def _fsspec_options(protocol: str, options: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """The driver's own arguments for the options of docs/tenants.md, with time limits where it takes some."""
    given: dict[str, Any] = {**options, **secrets}
    if protocol in {"s3", "s3a"}:
        config: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "retries": {"max_attempts": 1},
        }
        _content(given, "ca_file")
        client = {"region_name": given.pop("region", None), "verify": given.pop("ca_file", None)}
        if style := given.pop("addressing_style", None):
            config["s3"] = {"addressing_style": style}
        given["client_kwargs"] = {key: value for key, value in client.items() if value is not None}
        given["config_kwargs"] = config
    elif protocol in {"abfs", "abfss", "az"}:
        given |= {"connection_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS}
    return given


class FsspecFolder:
    """A folder of any fsspec file system; S3 and Azure are the ones that are installed and documented."""

    def __init__(self, url: str, options: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        from fsspec.core import url_to_fs

        self._protocol = url.partition("://")[0]
        self._where, self._secrets = url, secrets
        with _errors(url, secrets):
            # No cache of instances: it would keep the secrets, and a look must not be an earlier one's answer.
            self._filesystem, root = url_to_fs(
                url,
                skip_instance_cache=True,
                use_listings_cache=False,
                **_fsspec_options(self._protocol, options, secrets),
            )
        self._root = str(root).rstrip("/")
        if self._protocol in {"s3", "s3a"}:
            self._filesystem.retries = 2

    def is_there(self) -> bool:
        try:
            with _errors(self._where, self._secrets):
                if self._protocol in {"s3", "s3a"}:
                    self._ask("lsdir", self._root, refresh=True, max_items=1)
                elif self._protocol in {"abfs", "abfss", "az"}:
                    self._ask("info", self._root.split("/")[0])  # its "exists" takes a refusal for a yes
                else:
                    return bool(self._ask("exists", self._root))
        except FileNotFoundError:
            return False
        return True

    def files(self) -> list[RemoteFile]:
        # S3 says itself that a bucket is missing; the others list nothing, and Azure's driver asks on for minutes.
        if self._protocol not in {"s3", "s3a"} and not self.is_there():
            raise FileNotFoundError(errno.ENOENT, "no such folder", self._where)
        with _errors(self._where, self._secrets):
            found = self._ask("find", self._root, detail=True, seconds=LISTING_SECONDS)
        files: list[RemoteFile] = []
        for full, info in found.items() if isinstance(found, dict) else ():
            is_below = full.startswith(f"{self._root}/") and not full.endswith("/")
            if is_below and info["type"] == "file":
                files.append(_from_info(full[len(self._root) + 1 :], info))
        # A key that is a folder's marker, with or without its slash, holds nothing.
        folders = {str(folder) for file in files for folder in PurePosixPath(file.name).parents}
        return [file for file in files if file.size_bytes or file.name not in folders]

    def look(self, name: str) -> RemoteFile | None:
        try:
            with _errors(self._where, self._secrets, about_file=name):
                return _from_info(name, self._ask("info", f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path, size_bytes: int) -> None:
        seconds = STALL_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
        with _errors(self._where, self._secrets, about_file=name):
            self._ask("get_file", f"{self._root}/{name}", str(target), seconds=seconds)

    def close(self) -> None:
        """Nothing to do: the drivers end their sessions with their file system."""

    def _ask(self, operation: str, *arguments: Any, seconds: float = ANSWER_SECONDS, **options: Any) -> Any:
        """One operation of the file system, ended when it takes too long where the driver can be interrupted."""
        from fsspec.asyn import sync

        if self._filesystem.async_impl:
            method = getattr(self._filesystem, f"_{operation}")
            return sync(self._filesystem.loop, method, *arguments, timeout=seconds, **options)
        return getattr(self._filesystem, operation)(*arguments, **options)


def _from_info(name: str, info: Mapping[str, Any]) -> RemoteFile:
    modified = next((info[key] for key in _MODIFIED_KEYS if info.get(key) is not None), None)
    if isinstance(modified, int | float):
        modified = datetime.fromtimestamp(modified, UTC)
    elif isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    if modified is not None and modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    tag = next((str(info[key]) for key in _TAG_KEYS if info.get(key)), "").strip('"')
    if tag and modified is not None:
        modified = modified.replace(microsecond=0)  # listings have fractions that a look at one object has not
    return RemoteFile(name, int(info["size"] or 0), modified, tag)


# --- SFTP


class SftpFolder:
    """A folder behind SSH. The server's key must be known; links are not followed."""

    def __init__(self, url: str, options: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._options, self._secrets = options, secrets
        self._host = str(options.get("host") or parts.hostname or "")
        self._port = int(options.get("port") or parts.port or 22)
        self._user = str(options.get("username") or unquote(parts.username or ""))
        path = unquote(parts.path).rstrip("/") or "/"
        self._root = path[3:] or "." if path.startswith("/~/") or path == "/~" else path  # ~: where a log-in begins
        self._where = f"{parts.scheme}://{self._host}:{self._port}{path}"
        self._connection: Any = None
        self._client: Any = None
        if not self._host or not self._user:
            raise DropZoneError(f"{self._where}: write it as sftp://user@host/path")

    def is_there(self) -> bool:
        try:
            with self._errors():
                attributes = self._ask(lambda client: client.stat(self._root))
        except FileNotFoundError:
            return False
        return attributes.permissions is None or stat.S_ISDIR(attributes.permissions)

    def files(self) -> list[RemoteFile]:
        with self._errors():
            found: list[RemoteFile] = self._ask(self._find, LISTING_SECONDS)
            return found

    def look(self, name: str) -> RemoteFile | None:
        try:
            with self._errors(name):
                return _from_attributes(name, self._ask(lambda client: client.lstat(self._full(name))))
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path, size_bytes: int) -> None:
        async def copy(client: Any) -> None:
            with target.open("wb") as sink:
                async with client.open(self._full(name), "rb") as source:
                    while chunk := await asyncio.wait_for(source.read(CHUNK_BYTES), STALL_SECONDS):
                        sink.write(chunk)

        with self._errors(name):
            self._ask(copy, STALL_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND)

    def close(self) -> None:
        if self._connection is not None:
            from fsspec.asyn import get_loop

            get_loop().call_soon_threadsafe(self._connection.close)
            self._connection = None

    def _full(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    async def _find(self, client: Any) -> list[RemoteFile]:
        found: list[RemoteFile] = []
        folders = [""]
        while folders:
            below = folders.pop()
            async for entry in client.scandir(self._full(below) if below else self._root):
                kind = entry.attrs.permissions or 0
                name = f"{below}/{entry.filename}".lstrip("/")
                if stat.S_ISDIR(kind) and not entry.filename.startswith("."):  # hidden, or . and ..
                    folders.append(name)
                elif stat.S_ISREG(kind):
                    found.append(_from_attributes(name, entry.attrs))
        return found

    def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]], seconds: float = ANSWER_SECONDS) -> Any:
        """A question put to the server, over the connection that is open or a new one."""
        from fsspec.asyn import get_loop, sync

        async def ask() -> Any:
            if self._connection is None or self._connection.is_closed():
                self._connection, self._client = await asyncio.wait_for(self._connect(), ANSWER_SECONDS)
            return await question(self._client)

        return sync(get_loop(), ask, timeout=seconds)

    async def _connect(self) -> tuple[Any, Any]:
        import asyncssh

        logging.getLogger("asyncssh").setLevel(logging.WARNING)
        password, passphrase = self._secrets.get("password"), self._secrets.get("passphrase")
        keys: Any = () if password is None else None  # (): the user's own, as ssh does; None: none
        if key_text := self._secrets.get("private_key"):
            keys = [asyncssh.import_private_key(key_text.replace("\\n", "\n"), passphrase)]
        elif (key := _content(self._options, "key_filename")) is not None:
            keys = [asyncssh.import_private_key(key, passphrase)]
        known_hosts: Any = _content(self._options, "known_hosts")
        if known_hosts is None:
            known_hosts = ()  # the user's own
        if host_key := self._options.get("host_key"):
            known_hosts = ([asyncssh.import_public_key(str(host_key))], [], [])
        connection = await asyncssh.connect(
            self._host,
            self._port,
            username=self._user,
            password=password,
            client_keys=keys,
            known_hosts=known_hosts,
            config=None,
            agent_path=None,
            connect_timeout=CONNECT_SECONDS,
            login_timeout=ANSWER_SECONDS,
            keepalive_interval=CONNECT_SECONDS,
        )
        try:
            # Names are bytes to the server: those in an old encoding must not hide the others.
            return connection, await connection.start_sftp_client(path_errors="surrogateescape")
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def _errors(self, about_file: str = "") -> Iterator[None]:
        import asyncssh

        with _errors(self._where, self._secrets, about_file=about_file):
            try:
                yield
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
                raise FileNotFoundError from None
            except asyncssh.SFTPPermissionDenied:
                raise PermissionError("the server lets this user not read it") from None
            except asyncssh.PermissionDenied:
                raise DropZoneError(f"{self._where}: the server refuses the user or its password or key") from None
            except asyncssh.HostKeyNotVerifiable as error:
                raise DropZoneError(
                    f"{self._where}: the server's host key is not the one that is known ({error}):"
                    " see known_hosts and host_key in docs/tenants.md"
                ) from None
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError) as error:
                raise DropZoneError(f"{self._where}: {_plain(error, self._secrets)}") from None
            except asyncssh.SFTPError as error:
                if not about_file:
                    raise
                raise _FileFaultError(errno.EIO, _plain(error, self._secrets), about_file) from None


def _from_attributes(name: str, attributes: Any) -> RemoteFile:
    modified = None if attributes.mtime is None else datetime.fromtimestamp(attributes.mtime, UTC)
    return RemoteFile(name, int(attributes.size or 0), modified, "")
