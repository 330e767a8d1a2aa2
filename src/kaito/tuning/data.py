"""Datasets: files of rows, and the examples that their columns make.

Every file of a known kind is read, in the order of the names. What a row is follows from its columns, or from those that the
configuration names:

| columns | example |
|---|---|
| ``messages``, or ``conversations`` | a chat; each answer of the assistant is learned |
| ``prompt`` and ``completion`` | the completion is learned |
| ``instruction`` (with ``input``) and ``output`` or ``response`` | the output is learned |
| ``text`` | all of it is learned |
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.tuning.config import Dataset
from kaito.tuning.errors import DataError

KINDS = ("jsonl", "json", "csv", "parquet", "arrow")
"""A file is of the first kind that its lower-case name contains: ``train.parquet?download=true`` is one, too."""
MOST = 4 << 30
"""Bytes of data in a file that packs them."""
_BATCH = 128
"""Rows that are unpacked at once."""
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One of a chat, a prompt with its completion, or a text."""

    messages: tuple[Mapping[str, str], ...] = ()
    prompt: str = ""
    text: str = ""
    """The completion where there is a prompt."""


@dataclass(frozen=True, slots=True)
class Examples:
    train: list[Example]
    evaluate: list[Example]


def load_examples(folder: Path, dataset: Dataset) -> Examples:
    """All examples below ``folder``, shuffled and split. Raises DataError, which names the file and the row."""
    examples = [
        _example(row, dataset, f"{file.name}, row {number}")
        for file in find_files(folder, dataset)
        for number, row in enumerate(read_rows(file), start=1)
    ]
    if not examples:
        raise DataError(f"{folder}: its files have no rows")
    if dataset.shuffle:
        random.Random(dataset.seed).shuffle(examples)
    count = (
        len(examples) if dataset.split == 1 else max(1, min(len(examples) - 1, round(len(examples) * dataset.split)))
    )
    return Examples(examples[:count], examples[count:])


def find_files(folder: Path, dataset: Dataset) -> list[Path]:
    """Raises DataError where there is none."""
    place = folder / dataset.path
    if not place.exists():
        raise DataError(f"{place} does not exist: check DatasetConfig.dataset_path and the Workspace's tuning.input")
    candidates = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    wanted = [file for file in candidates if (kind := kind_of(file)) and dataset.extension in ("", kind)]
    if not wanted:
        there = ", ".join(file.name for file in candidates[:5]) or "nothing"
        raise DataError(f"{place} has no file of a kind that is read ({', '.join(KINDS)}); there is {there}")
    return wanted


def kind_of(file: Path) -> str:
    name = file.name.lower()
    return next((kind for kind in KINDS if kind in name), "")


def read_rows(file: Path, most: int = MOST) -> list[Row]:
    """Raises DataError for a file that is broken, and for one with more than ``most`` bytes of data."""
    from pyarrow import ArrowException

    try:
        match kind_of(file):
            case "jsonl" | "json":
                return _json_rows(file)
            case "csv":
                return _csv_rows(file, most)
            case "parquet":
                return _parquet_rows(file, most)
            case _:
                return _arrow_rows(file, most)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file.name} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _csv_rows(file: Path, most: int) -> list[Row]:
    from pyarrow import BufferReader, csv, input_stream

    with input_stream(str(file)) as source:
        data = source.read(most + 1)
    if len(data) > most:
        raise _too_large(file, most)
    rows: list[Row] = csv.read_csv(BufferReader(data)).to_pylist()
    return rows


def _parquet_rows(file: Path, most: int) -> list[Row]:
    """The footer tells the size of encoded columns: one that repeats a text is only found to be large when it is read."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as source:
        groups = (source.metadata.row_group(index) for index in range(source.num_row_groups))
        if sum(group.total_byte_size for group in groups) > most:
            raise _too_large(file, most)
        return _rows(file, source.iter_batches(_BATCH), most)


def _arrow_rows(file: Path, most: int) -> list[Row]:
    from pyarrow import ArrowInvalid, ipc

    with file.open("rb") as source:
        try:
            reader = ipc.open_file(source)
        except ArrowInvalid:
            source.seek(0)
            return _rows(file, ipc.open_stream(source), most)
        return _rows(file, map(reader.get_batch, range(reader.num_record_batches)), most)


def _rows(file: Path, batches: Iterable[Any], most: int) -> list[Row]:
    rows: list[Row] = []
    size = 0
    for batch in batches:
        for begin in range(0, batch.num_rows, _BATCH):
            more = batch.slice(begin, _BATCH).to_pylist()
            size += _size(more)
            if size > most:
                raise _too_large(file, most)
            rows += more
    return rows


def _size(value: Any) -> int:
    """Bytes of text in ``value``, roughly."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else len(value) if isinstance(value, (str, bytes)) else 8


def _too_large(file: Path, most: int) -> DataError:
    return DataError(
        f"{file.name} holds more than {most >> 20} MiB of data, unpacked, which would all be in memory: learn from a part of it"
    )


def _json_rows(file: Path) -> list[Row]:
    """A row a line, or one array, or one object whose ``data`` is an array."""
    text = file.read_text()
    try:
        document = json.loads(text)
    except ValueError:
        return [
            _object(line, f"{file.name}, line {number}")
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    rows = document if isinstance(document, list) else [document]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{file.name}, row {number} is not an object")
    return rows


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object")
    return row


def _example(row: Row, dataset: Dataset, where: str) -> Example:
    for column in (dataset.messages_column, dataset.context_column, dataset.response_column):
        if column and column not in row and (column != "text" or not _guessed(row)):
            raise DataError(f"{where} has no column {column!r}, which DatasetConfig names; it has {', '.join(row)}")
    if chat := dataset.messages_column or next((name for name in ("messages", "conversations") if row.get(name)), ""):
        return Example(messages=_messages(row[chat], where))
    if dataset.context_column and dataset.response_column:
        return _completion(row[dataset.context_column], row[dataset.response_column], where)
    if dataset.response_column and dataset.response_column in row:
        return _text(row[dataset.response_column], where)
    if (pair := _guessed(row)) is not None:
        return _completion(*pair, where)
    if "text" in row:
        return _text(row["text"], where)
    raise DataError(
        f"{where} has the columns {', '.join(row) or 'none'}: there must be messages, prompt and completion, instruction and "
        "output, or text; or DatasetConfig names others"
    )


def _guessed(row: Row) -> tuple[Any, Any] | None:
    if row.get("prompt") is not None and row.get("completion") is not None:
        return row["prompt"], row["completion"]
    output = next((row[name] for name in ("output", "response") if row.get(name) is not None), None)
    if row.get("instruction") is not None and output is not None:
        given = row.get("input")
        return f"{row['instruction']}\n\n{given}" if given else row["instruction"], output
    return None


def _messages(value: Any, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{where}: its messages must be a list with entries")
    found = []
    for number, entry in enumerate(value, start=1):
        role = (entry.get("role") or entry.get("from")) if isinstance(entry, Mapping) else None
        content = entry.get("content", entry.get("value")) if isinstance(entry, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where}: message {number} needs a role and a content")
        found.append({"role": _ROLES.get(role, role), "content": content})
    if not any(entry["role"] == "assistant" for entry in found):
        raise DataError(f"{where}: no message is the assistant's, so there is nothing to learn")
    return tuple(found)


def _completion(prompt: Any, completion: Any, where: str) -> Example:
    if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
        raise DataError(f"{where}: what is asked and what is answered must be text, and the answer not empty")
    return Example(prompt=prompt, text=completion)


def _text(value: Any, where: str) -> Example:
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: its text must be text, and not empty")
    return Example(text=value)
