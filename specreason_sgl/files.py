"""Typed files: JSON documents, and records (JSON Lines) that an interrupted run continues."""

import fcntl
import gzip
import zlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import BinaryIO, ClassVar, Generic, TypeVar

import msgspec

from specreason_sgl.errors import ConfigError


class VersionError(ConfigError):
    """A file is of a version that this package does not read."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a record: what kind of record it is, and what its lines depend on.

    A subclass declares `kind` and `version` again, as literals with a default, and adds the rest. A record
    is continued only with the same head, but for the fields that it names in `uncompared`.
    """

    uncompared: ClassVar[tuple[str, ...]] = ()

    kind: str
    version: int


class Line(msgspec.Struct, frozen=True):
    """A line of a record. A later line replaces an earlier one with the same key."""

    @property
    def key(self) -> Hashable:
        raise NotImplementedError


DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)
HeadT = TypeVar("HeadT", bound=Head)
LineT = TypeVar("LineT", bound=Line)
T = TypeVar("T")


class _Version(msgspec.Struct):
    version: int | None = None


def decode(data: str | bytes, document: type[DocumentT], what: str) -> DocumentT:
    """Read JSON as a struct.

    Args:
        data: the JSON.
        document: the struct's type. The default of its field `version`, where it has one, is the version
            that is read.
        what: the document's name for errors, with its article.

    Raises:
        VersionError: it is of another version.
        ConfigError: it is not such a document. The message says what is wrong, and where in the document.
    """
    try:
        return msgspec.json.decode(data, type=document)
    except (ValueError, RecursionError) as error:
        _check_version(data, document)
        raise ConfigError(f"this is not {what}: {error}") from None


def _check_version(data: str | bytes, document: type[msgspec.Struct]) -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(document)}
    try:
        version = msgspec.json.decode(data, type=_Version).version
    except (ValueError, RecursionError):
        return
    if "version" in defaults and version not in (None, defaults["version"]):
        raise VersionError(f"this package reads version {defaults['version']}, got version {version}")


def read(path: Path, document: type[DocumentT], what: str) -> DocumentT:
    """Read a file that holds one JSON document; errors as in `decode`, with the path."""
    try:
        return decode(Path(path).read_bytes(), document, what)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise type(error)(f"{path}: {error}") from None


def read_lines(path: Path, line: type[DocumentT], what: str, use: Callable[[DocumentT, int], T]) -> list[T]:
    """What `use` makes of each line of a JSON Lines file and its number, from 1; blank lines are skipped.

    Raises:
        ConfigError: the file cannot be read, or `decode` or `use` refuses a line; names the line.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    results = []
    for number, content in enumerate(lines, 1):
        if not content.strip():
            continue
        try:
            results.append(use(decode(content, line, what), number))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
    return results


def write(path: Path, document: msgspec.Struct) -> None:
    """Write a document as JSON. The file appears, or is replaced, only when it is complete."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(msgspec.json.encode(document) + b"\n")
    partial.replace(path)


class Record(Generic[LineT]):
    """A record, open for appending; only one process can have it open.

    Opening it drops a last line that was cut off.

    Attributes:
        done: the finished lines by their keys.
        head: the file's own first line.

    Args:
        path: the file; it may be new.
        head: its first line.
        line: the type of the other lines.

    Raises:
        ConfigError: the name ends with .gz, or the file is not such a record, was written with another head,
            cannot be written, or another process is writing to it.
    """

    def __init__(self, path: Path, head: Head, line: type[LineT]):
        check_name(path)
        self._file = _open_locked(path)
        try:
            self.head = head
            self.done: dict[Hashable, LineT] = self._begin(path, head, line)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, path: Path, head: Head, line: type[LineT]) -> dict[Hashable, LineT]:
        first_line = msgspec.json.encode(head) + b"\n"
        self._file.seek(0)
        content = self._file.read()
        if _is_cut_off(content, first_line):
            self._file.truncate(0)
            self._write(first_line)
            return {}
        written, lines = _parse(path, content, type(head), line)
        expected = msgspec.json.decode(first_line, type=type(head))
        changed = [
            name
            for name in head.__struct_fields__
            if name not in head.uncompared and getattr(written, name) != getattr(expected, name)
        ]
        if changed:
            raise ConfigError(
                f"{path} was written with other settings ({', '.join(changed)}); "
                "name another file, or remove it"
            )
        self.head = written
        self._file.truncate(content.rindex(b"\n") + 1)
        return {line.key: line for line in lines}

    def add(self, line: LineT) -> None:
        """Append a finished line."""
        self._write(msgspec.json.encode(line) + b"\n")
        self.done[line.key] = line

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def __enter__(self) -> "Record[LineT]":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def check_name(path: Path) -> None:
    """Refuse a name that `read_record` would take for a compressed record: `Record` writes plain lines.

    Raises:
        ConfigError: the name ends with .gz.
    """
    if Path(path).suffix == ".gz":
        raise ConfigError(f"out must be a name that does not end with .gz, got {path}", "out")


def read_record(path: Path, head: type[HeadT], line: type[LineT]) -> tuple[HeadT, list[LineT]]:
    """A record's head and its lines, the last of each key. A file whose name ends with .gz is decompressed.

    Raises:
        ConfigError: the file cannot be read, or is not such a record; names the line.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own have no strerror
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    first, lines = _parse(path, content, head, line)
    return first, list({line.key: line for line in lines}.values())


def _parse(path: Path, content: bytes, head: type[HeadT], line: type[LineT]) -> tuple[HeadT, list[LineT]]:
    kind = next(field.default for field in msgspec.structs.fields(head) if field.name == "kind")
    *finished, _ = content.split(b"\n")  # what follows the last line end was cut off
    if not finished:
        raise ConfigError(f"{path}, line 1: this is not a record of {kind}: the line is not complete")

    def decoded(number: int, document: type[DocumentT]) -> DocumentT:
        try:
            return decode(finished[number - 1], document, f"a record of {kind}")
        except ConfigError as error:
            raise type(error)(f"{path}, line {number}: {error}") from None

    return decoded(1, head), [decoded(number, line) for number in range(2, len(finished) + 1)]


def _is_cut_off(content: bytes, first_line: bytes) -> bool:
    """Whether a file is new, or ends within the first line of such a record."""
    opening = first_line[: first_line.index(b",")]  # its kind
    return b"\n" not in content and content[: len(opening)] == opening[: len(content)]


def _open_locked(path: Path) -> BinaryIO:
    try:
        file = open(path, "a+b")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another process is writing to {path}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return file
