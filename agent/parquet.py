"""Events as a Parquet table: the owner of pyarrow.

In: rows as `messages.finished_event_row` makes them. Out: one Parquet file on a binary stream, with typed columns.
Called on the main thread, by `cli`. Needs the extra `[cluster]`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, Self

from agent.errors import OutputError, UsageError

ROWS_AT_ONCE = 10_000  # of a row group: events are few, and a reader takes groups one by one


class ParquetWriter:
    """Rows of events, one after the other; the file is whole when it is closed.

    Args:
        stream: what takes the bytes.
        columns: names; what is neither text nor truth by name is a number, `start` and `end` are times in UTC.

    Raises:
        UsageError: pyarrow is not installed.
        OutputError: the stream takes nothing.
    """

    def __init__(self, stream: BinaryIO, columns: tuple[str, ...]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UsageError("--format parquet needs pyarrow: in its source, pip install '.[cluster]'") from error
        text, number, time = pa.string(), pa.float64(), pa.timestamp("ms", tz="UTC")
        types = {"file": text, "label": text, "end_reason": text, "start": time, "end": time, "calibrated": pa.bool_()}
        self._pa = pa
        self._stream = stream
        self._schema = pa.schema([(column, types.get(column, number)) for column in columns])
        self._rows: list[dict[str, Any]] = []
        with _named_errors():
            self._writer = parquet.ParquetWriter(stream, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row; what it lacks is null, and what is no UTF-8 in the name of its file is replaced.

        Raises:
            OutputError: the stream takes no more.
        """
        times = {name: datetime.fromisoformat(row[name]) for name in ("start", "end") if row.get(name)}
        file = row["file"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self._rows.append({**row, "file": file, **times})
        if len(self._rows) == ROWS_AT_ONCE:
            with _named_errors():
                self._put()

    def close(self) -> None:
        """Write what is left, and the end of the file.

        Raises:
            OutputError: the stream takes no more.
        """
        with _named_errors():
            self._put()
            self._writer.close()
            self._stream.flush()

    def _put(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._schema))
        self._rows.clear()


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error}), the rest is lost") from error
