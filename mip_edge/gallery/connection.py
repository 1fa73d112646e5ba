"""One SQLite file in WAL mode: opened or refused, short transactions, errors in one line."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mip_edge.errors import GalleryError
from mip_edge.gallery.schema import APPLICATION_ID, PAGE_BYTES, SCHEMA_VERSION, TABLES

MEMORY = ":memory:"
COMMIT_SECONDS = 0.5
COMMIT_WRITES = 1000
BUSY_SECONDS = 10.0
_PARAMETERS = 500
_HEADER = b"SQLite format 3\x00"


class Connection:
    """Statements of one gallery file, grouped into transactions of at most half a second.

    A write begins a transaction; it is committed by `commit`, or by the first write after
    `COMMIT_SECONDS` or `COMMIT_WRITES`. With synchronous=NORMAL a commit does not wait for the
    disk: a process that is killed loses what is not committed, a power cut also what the disk
    had not got yet; the file stays whole in both.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`path` may be `MEMORY`; missing tables are made by `create_tables`."""
        self.path = path
        self._clock = clock
        self._began = 0.0
        self._writes = 0
        self.is_open = True
        self.failures = 0
        """How often SQLite refused; what was not committed then is lost."""
        self._failed: Callable[[], None] = lambda: None
        try:
            # One thread at a time; SQLite itself would take more.
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise GalleryError(f"{path} cannot be opened: {error}") from error
        with self._told("opened"):
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("PRAGMA temp_store=MEMORY")
            self._db.execute("PRAGMA cache_size=-32768")

    def on_failure(self, restore: Callable[[], None]) -> None:
        """`restore` is called after what was not committed was taken back."""
        self._failed = restore

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written."""
        return not self.read("SELECT 1 FROM sqlite_master LIMIT 1")

    def create_tables(self, meta: dict[str, str | int]) -> None:
        """Make the tables, whole or not at all; those of a process that was quicker stay.

        Raises: GalleryError.
        """
        with self._told("written"):
            self._db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            self._db.execute("BEGIN IMMEDIATE")
            if self.is_new:
                for statement in TABLES.split(";"):
                    self._db.execute(statement)
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
            if self.path != MEMORY:
                self._log_ahead()

    def _log_ahead(self) -> None:
        """Go over to WAL; for others who are at the file SQLite itself does not wait here."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def check_tables(self) -> None:
        """Refuse what is no gallery, or one of another version. Raises: GalleryError."""
        kind = self.read("PRAGMA application_id")[0][0]
        version = self.read("PRAGMA user_version")[0][0]
        if kind != APPLICATION_ID:
            raise GalleryError(f"{self.path} is an SQLite file, but no gallery of mip-edge")
        if version != SCHEMA_VERSION:
            raise GalleryError(
                f"{self.path} is a gallery of version {version}, this mip-edge reads version "
                f"{SCHEMA_VERSION}; export it with the mip-edge that made it, and import it here"
            )
        with self._told("opened"):
            self._db.execute("PRAGMA synchronous=NORMAL")

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        with self._told("read"):
            return self._db.execute(sql, parameters).fetchall()

    def read_in(
        self, sql: str, values: Sequence[int] | Sequence[str], more: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """All rows of a SELECT whose `(?)` stands for many `values`; then follow `more`."""
        rows: list[tuple[Any, ...]] = []
        for start in range(0, len(values), _PARAMETERS):
            part = values[start : start + _PARAMETERS]
            marks = "(" + ",".join("?" * len(part)) + ")"
            rows += self.read(sql.replace("(?)", marks, 1), (*part, *more))
        return rows

    def rows(self, sql: str, chunk: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a SELECT, `chunk` at a time."""
        with self._told("read"):
            cursor = self._db.execute(sql)
        while True:
            with self._told("read"):
                part = cursor.fetchmany(chunk)
            if not part:
                return
            yield part

    def begin(self) -> None:
        """Open a transaction unless one is open."""
        if not self._db.in_transaction:
            with self._told("written"):
                self._db.execute("BEGIN IMMEDIATE")
            self._began, self._writes = self._clock(), 0

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Change rows inside a transaction; gives the number of a row that was inserted."""
        self.begin()
        with self._told("written"):
            cursor = self._db.execute(sql, parameters)
        return cursor.lastrowid or 0

    def write_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """The same change with many parameters."""
        self.begin()
        with self._told("written"):
            self._db.executemany(sql, rows)

    def commit_if_due(self) -> None:
        """Commit a transaction that is old or long; call it where the tables are in order."""
        self._writes += 1
        if self.in_transaction and (
            self._writes >= COMMIT_WRITES or self._clock() - self._began >= COMMIT_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """What was written is in the file from now on. Raises: GalleryError."""
        if self.is_open and self._db.in_transaction:
            with self._told("written"):
                self._db.execute("COMMIT")

    @property
    def in_transaction(self) -> bool:
        """Whether something waits for `commit`."""
        with self._told("read"):
            return self._db.in_transaction

    def version(self) -> int:
        """A number that changes when another process has committed."""
        return int(self.read("PRAGMA data_version")[0][0])

    def truncate_log(self) -> bool:
        """Write the -wal into the file and empty it; False if a reader of it stood in the way."""
        busy = self.read("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] if self.path != MEMORY else 0
        return not busy

    def close(self) -> None:
        """Commit and let the file go; closing twice is allowed."""
        if self.is_open:
            try:
                self.commit()
            finally:
                self.is_open = False
                self._db.close()

    @contextmanager
    def _told(self, deed: str) -> Iterator[None]:
        """One line of whatever SQLite refuses, and what was not committed is taken back."""
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.ProgrammingError):
                raise GalleryError(f"the gallery {self.path} is closed") from error
            self.failures += 1
            pending = self._writes
            if self._db.in_transaction:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            self._writes = 0
            if deed == "written":
                self._failed()
            raise GalleryError(_explain(self.path, deed, error, pending)) from error


def is_sqlite(path: Path) -> bool:
    """Whether a file begins as SQLite's do."""
    with path.open("rb") as stream:
        return stream.read(len(_HEADER)) == _HEADER


def _explain(path: str, deed: str, error: sqlite3.Error, pending: int) -> str:
    reason = str(error)
    if "full" in reason:
        reason = "no space left on the disk; free some"
    elif "locked" in reason:
        reason = f"another process has been writing to it for {BUSY_SECONDS:.0f} s; try again"
    elif "readonly" in reason:
        reason = "it, or its folder, is read-only; SQLite writes files beside it"
    elif "disk I/O" in reason:
        reason = "the disk refuses it (full, or broken)"
    lost = f" (the last {pending} changes were not kept, all before are)" if pending > 1 else ""
    return f"{path} cannot be {deed}: {reason}{lost}"
