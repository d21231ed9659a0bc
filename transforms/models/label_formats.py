"""Formats of label maps: labels by class id from the bytes of a file.

Every parser raises `ValueError` with the offending entry and the remedy.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_LABEL_COLUMNS = ("label", "name", "class_name", "display_name")
_ID_COLUMNS = ("class_id", "index", "id")
_DELIMITERS = ",;\t"
_COLUMNS_REMEDY = (
    f"Begin the file with a line of column names: a label ({', '.join(_LABEL_COLUMNS)}) "
    f"and, unless the rows are in the order of the model's outputs, a class id ({', '.join(_ID_COLUMNS)})"
)
_JSON_REMEDY = (
    'Give a list of labels, an object such as {"0": "tench"} or {"tench": 0}, a list of objects with '
    '"id" and "name", Keras\' class index, or a Hugging Face config.json'
)

# Below the longest field that `csv` reads.
_LONGEST_HEADER = 10_000
_CLASS_ID = re.compile(r"0|[1-9][0-9]*")
_SYNSET = re.compile(r"n[0-9]{8}")
_SYNSET_LINE = re.compile(rf"{_SYNSET.pattern}\s+(\S.*)")
_NUMBERED_LINE = re.compile(r"[0-9]+\W+\S.*")
# A class id and a label: "0 tench", "0: tench", "0 - tench", "0,tench". Not "0,5 mm", "0:30" or "0-5 years".
_INDEXED_LINE = re.compile(r"([0-9]+)(?:\s*[:,;.)|=-]?\s+|[:,;|=)](?=[^\W\d]))(\S.*)")
# Categories of characters that are never part of a label: controls, line ends, and halves of UTF-16 pairs,
# which UTF-8 can't hold.
_NO_LABEL = ("Cc", "Zl", "Zp", "Cs")

Labels = tuple[str, ...]
# A place in the file, for messages, a class id, and its label.
LabelEntry = tuple[str, int, str]


def parse_labels(suffix: str, data: bytes) -> Labels:
    """Parse a label map.

    Args:
      suffix: The file name's suffix in lower case, such as `.json`; any other suffix means text.
      data: The file's bytes.

    Returns:
      The labels by class id.

    Raises:
      ValueError: The file is damaged, of another format, or has no label, or several, for a class id.
    """
    if suffix in _OTHER_FORMATS:
        raise ValueError(f"{suffix} files are not read. Save it as CSV. {_COLUMNS_REMEDY}")
    text = _decode(data)
    labels = _PARSERS.get(suffix, _parse_text)(text) if text.strip() else ()
    if not labels:
        raise ValueError("it holds no labels. Give one for each class of the model")
    return labels


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ValueError(
            f"line {line} is no UTF-8: it has the byte 0x{data[e.start]:02x}. Save it as UTF-8"
        ) from e
    # Unix line ends for `str.split`, because `str.splitlines` would also split at separators inside labels.
    text = re.sub("\r\n?", "\n", text)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"line {line} has a null byte. Save the file as UTF-8 text, or copy it again")
    return text


def _parse_text(text: str) -> Labels:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    _refuse_other_formats(lines)
    for n, line in enumerate(lines, 1):
        if not line:
            raise ValueError(
                f"line {n} is blank, so that the class ids of all lines after it are in doubt. "
                "Remove the line, or write the label of the class there"
            )
    return tuple(_label(f"line {n}", line) for n, line in enumerate(_without_prefixes(lines), 1))


def _refuse_other_formats(lines: Sequence[str]) -> None:
    # Other formats under a wrong name are refused, because all their lines would be taken as labels.
    if lines[0][:1] + lines[-1][-1:] in ("[]", "{}"):
        raise ValueError("it looks like JSON. Give a whole JSON file, with the suffix .json")
    if re.fullmatch(r"item\s*\{.*", lines[0]):
        raise ValueError(f"it is a protocol buffer in text form. Save it as CSV. {_COLUMNS_REMEDY}")
    cells = [set(_header(lines[0], delimiter)) for delimiter in _DELIMITERS]
    if any(names & set(_LABEL_COLUMNS) and names & set(_ID_COLUMNS) for names in cells):
        raise ValueError("it is CSV. Give the file the suffix .csv")


def _without_prefixes(lines: Sequence[str]) -> Sequence[str]:
    """Remove the class id and the WordNet id that some tools write before each label."""
    if all(map(_NUMBERED_LINE.fullmatch, lines)):
        lines = _without_indices(lines)
    synsets = [_SYNSET_LINE.fullmatch(line) for line in lines]
    return [synset[1] for synset in synsets if synset] if all(synsets) else lines


def _without_indices(lines: Sequence[str]) -> list[str]:
    labels = []
    for n, line in enumerate(lines):
        match = _INDEXED_LINE.fullmatch(line)
        if match is None or match[1] != str(n):
            raise ValueError(
                f"every line begins with a number, and line {n + 1}, {_quote(line)}, not with {n}. If the "
                "numbers are class ids, save the file as CSV with the columns class_id and label, the ids "
                "from 0; if they are part of the labels, save it as a JSON list"
            )
        labels.append(match[2])
    # Many equal labels show that the number is the label's own, as in "1 year", "2 years".
    if len(lines) > 1 and 2 * len(set(labels)) <= len(labels):
        raise ValueError(
            f"every line begins with a number, and without it most labels are equal, such as {labels[0]!r}. "
            "If the numbers are part of the labels, save the file as a JSON list"
        )
    return labels


def _parse_json(text: str) -> Labels:
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as e:
        raise ValueError(f"it is no whole JSON: {e}. Write or copy the file again") from e
    except RecursionError as e:
        raise ValueError(f"it is nested too deeply. {_JSON_REMEDY}") from e
    if isinstance(document, dict):
        parts = (document.get(key) for key in ("id2label", "categories"))
        document = next((part for part in parts if isinstance(part, (dict, list))), document)
    if isinstance(document, dict):
        return _from_map(document)
    if not isinstance(document, list):
        raise ValueError(f"it holds {_quote(document)}, no label map. {_JSON_REMEDY}")
    rows = [(f"entry {n}", entry) for n, entry in enumerate(document)]
    if rows and isinstance(document[0], dict):
        return _from_table([(place, _record(place, entry)) for place, entry in rows])
    return tuple(_label(place, entry) for place, entry in rows)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    # An object that has a key twice is refused, because `json` keeps the last value without an error.
    key, times = next(iter(Counter(key for key, _ in pairs).most_common(1)), ("", 0))
    if times > 1:
        raise ValueError(f"the key {_quote(key)} occurs {times} times in one object. Keep one of them")
    return dict(pairs)


def _from_map(document: Mapping[str, Any]) -> Labels:
    """Read `{"0": "tench"}` or `{"tench": 0}`: a number must be the class id, because labels are strings."""
    ids_first = not any(isinstance(value, int) for value in list(document.values())[:1])
    entries = [
        (f"entry {_quote(key)}", *((key, v) if ids_first else (v, key))) for key, v in document.items()
    ]
    return _by_class_id((place, _class_id(place, n), _label(place, label)) for place, n, label in entries)


def _record(place: str, entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"{place} is {_quote(entry)}, where entry 0 is an object. {_JSON_REMEDY}")
    return entry


def _parse_csv(text: str) -> Labels:
    lines = text.rstrip().split("\n")
    delimiter = next((d for d in _DELIMITERS if set(_LABEL_COLUMNS) & set(_header(lines[0], d))), ",")
    columns = _header(lines[0], delimiter)
    # Strict, because `csv` otherwise reads all lines after an open quote as one label.
    reader = csv.reader(
        [f"{line}\n" for line in lines], delimiter=delimiter, strict=True, skipinitialspace=True
    )
    try:
        rows = [(f"line {reader.line_num}", cells) for cells in reader]
    except csv.Error as e:
        raise ValueError(f"line {reader.line_num} is no CSV: {e}. Correct the quotes in it") from e
    return _from_table([(place, _row(place, columns, cells)) for place, cells in rows[1:]], columns)


def _header(line: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([line[:_LONGEST_HEADER]], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip().casefold() for cell in cells]


def _row(place: str, columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(columns):
        raise ValueError(
            f"{place} has another number of values ({len(cells)}) than of columns ({len(columns)}): "
            f"{_quote(', '.join(cells))}. "
            "Correct it; a label with the delimiter in it must be in quotes"
        )
    return dict(zip(columns, (cell.strip() for cell in cells), strict=True))


def _from_table(rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str] = ()) -> Labels:
    """Return the labels of CSV rows, or of JSON objects, whose columns are all the keys that occur."""
    columns = columns or list(dict.fromkeys(key for _, row in rows for key in row))
    label, class_id = _column(columns, _LABEL_COLUMNS), _column(columns, _ID_COLUMNS)
    if label is None:
        names = _quote(", ".join(columns))
        raise ValueError(f"it has no label among its columns, {names}. {_COLUMNS_REMEDY}")
    for place, row in rows:
        if missing := next((c for c in (label, class_id) if c is not None and c not in row), None):
            raise ValueError(f"{place} has no {missing!r}: {_quote(row)}. Add it")
    return _by_class_id(
        (place, n if class_id is None else _class_id(place, row[class_id]), _label(place, row[label]))
        for n, (place, row) in enumerate(rows)
    )


def _column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    fitting = [column for column in columns if column in names]
    if len(fitting) > 1:
        raise ValueError(f"it has both {fitting[0]!r} and {fitting[1]!r}. Remove the one that does not count")
    return fitting[0] if fitting else None


def _class_id(place: str, value: Any) -> int:
    # Read strictly, because "1.0", "01" and `true` are signs of a file that a tool damaged.
    if isinstance(value, str) and _CLASS_ID.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(
        f"{place} has the class id {_quote(value)}. A class id is a whole number from 0, in plain digits"
    )


def _label(place: str, value: Any) -> str:
    """Read a label: a string, or Keras' pair of a WordNet id and a string."""
    if isinstance(value, list) and len(value) == 2 and _SYNSET.fullmatch(str(value[0])):
        value = value[1]
    if not isinstance(value, str):
        raise ValueError(f"{place} has the label {_quote(value)}. A label is a string: write it in quotes")
    label = value.strip()
    if not label:
        raise ValueError(f"{place} has an empty label. Write one, such as 'unused'")
    if any(unicodedata.category(character) in _NO_LABEL for character in label):
        raise ValueError(
            f"{place} has the label {_quote(label)}, with a control character, a tab or a line end in it. "
            "Remove it; a table needs the suffix .csv"
        )
    return label


def _by_class_id(entries: Iterable[LabelEntry]) -> Labels:
    # From 0 without a gap, because a model's outputs are numbered so.
    by_id: dict[int, str] = {}
    positions: dict[int, str] = {}
    for position, class_id, label in entries:
        if class_id in by_id:
            raise ValueError(
                f"class id {class_id} occurs twice: {_quote(by_id[class_id])} ({positions[class_id]}) and "
                f"{_quote(label)} ({position}). Keep one of them"
            )
        by_id[class_id], positions[class_id] = label, position
    missing = next((n for n in range(len(by_id)) if n not in by_id), None)
    if missing is not None:
        raise ValueError(
            f"there is no label for class {missing}: the {len(by_id)} class ids go from {min(by_id)} to "
            f"{max(by_id)}. Class ids must be the indices of the model's outputs, which begin at 0: number "
            "them so or, if the model has outputs without a class, add a label for each, such as 'unused'"
        )
    return tuple(by_id[n] for n in range(len(by_id)))


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_PARSERS: dict[str, Callable[[str], Labels]] = {".json": _parse_json, ".csv": _parse_csv, ".tsv": _parse_csv}
_OTHER_FORMATS = (".yaml", ".yml", ".xml", ".pbtxt", ".pkl", ".npy", ".jsonl", ".ndjson")
