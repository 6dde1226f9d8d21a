"""Random files: the same rows in every format, under random options, and what an independent reader finds in them.

A writer answers a `File`: its rows as the table should get them, or `None` for a row that is to be rejected.
"""

import bz2
import datetime
import gzip
import io
import json
import lzma
import zipfile
import zlib
from dataclasses import dataclass, field

import duckdb
import fastavro
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import zstandard

import random_columns
from random_columns import Integer, Misfit, Timestamp, Varchar, descendants, of_read, random_column

NAMES = [
    "a", "B", "select", "two words", "ünï", "UPPER", "mixedCase", "x_1", "дата", "列", "dash-ed", "do.t", "it's", "c10", "c11",
    "c12", "c13",
]
DEFAULT = 7


@dataclass
class TableColumn:
    name: str
    column: random_columns.Column
    not_null: bool = False
    has_default: bool = False

    def sql(self):
        text = f'"{self.name}" {self.column.sql}'
        return text + (" NOT NULL" if self.not_null else "") + (f" DEFAULT {DEFAULT}" if self.has_default else "")

    def absent(self):
        """What stands in for a value that is not there, where FIELD_DEFAULT is asked for."""
        return DEFAULT if self.has_default else self.null()

    def null(self):
        if self.not_null:
            raise Misfit
        return None


@dataclass
class File:
    path: object
    # For each record of the file: the row that the table should get, or None.
    rows: list = field(default_factory=list)
    # For each record: the line that an error of it names.
    lines: list = field(default_factory=list)

    def first_bad(self):
        return next((line for row, line in zip(self.rows, self.lines) if row is None), None)


def random_table(random, fits=lambda column: True, alphabet=None):
    """Columns, the first of them `id`, which tells rows apart."""
    columns = [TableColumn("id", Integer(random, source="BIGINT", target="BIGINT"), not_null=True)]
    for name in random.sample(NAMES, random.randint(1, 7)):
        column = random_column(random, alphabet)
        while not fits(column):
            column = random_column(random, alphabet)
        plain = isinstance(column, Integer)
        columns.append(TableColumn(name, column, random.random() < 0.1, plain and random.random() < 0.3))
    return columns


def random_rows(random, columns, first, count):
    nulls = random.choice([0, 0.1, 0.1, 0.5])
    rows = []
    for id in range(first, first + count):
        row = {"id": id}
        for column in columns[1:]:
            # Few NULLs where they are errors.
            share = nulls / 10 if column.not_null else nulls
            row[column.name] = None if random.random() < share else column.column.value(random)
        rows.append(row)
    return rows


def wanted_row(columns, values, want):
    """The row for the values of a record, or None if one of them does not fit. `want` answers a column's value."""
    try:
        return {column.name: want(column, values.get(column.name)) for column in columns}
    except Misfit:
        return None


def from_reader(columns, records):
    """Rows for what another reader found."""
    def want(column, value):
        return column.null() if value is None else of_read(column.column, value)

    return [wanted_row(columns, record, want) for record in records]


def plain(array):
    """An Arrow array in the values of `random_columns`, with instants in microseconds."""
    if isinstance(array, pa.ChunkedArray):
        return [value for chunk in array.chunks for value in plain(chunk)]
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_timestamp(kind):
        factor = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}[kind.unit]
        divisor = 1000 if kind.unit == "ns" else 1
        return [None if v is None else v * factor // divisor for v in array.cast(pa.int64()).to_pylist()]
    if pa.types.is_date(kind):
        return array.cast(pa.date32()).cast(pa.int32()).to_pylist()
    valid = array.is_valid().to_pylist()
    if pa.types.is_map(kind):
        keys, items, offsets = plain(array.keys), plain(array.items), array.offsets.to_pylist()
        return [
            list(zip(keys[start:end], items[start:end])) if ok else None
            for ok, start, end in zip(valid, offsets, offsets[1:])
        ]
    if pa.types.is_fixed_size_list(kind):
        items, n, at = plain(array.values), kind.list_size, array.offset
        return [items[(at + i) * n:(at + i + 1) * n] if ok else None for i, ok in enumerate(valid)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items, offsets = plain(array.values), array.offsets.to_pylist()
        return [items[start:end] if ok else None for ok, start, end in zip(valid, offsets, offsets[1:])]
    if pa.types.is_struct(kind):
        names = [child.name for child in kind]
        children = [plain(array.field(n)) for n in range(len(names))]
        return [dict(zip(names, values)) if ok else None for ok, values in zip(valid, zip(*children))]
    return array.to_pylist()


def plain_rows(table):
    columns = [plain(table.column(n)) for n in range(table.num_columns)]
    return [dict(zip(table.column_names, values)) for values in zip(*columns)]


# ---------------------------------------------------------------------------------------------------- text

COMPRESSIONS = {
    "": ("NONE", lambda data: data),
    ".gz": ("GZIP", gzip.compress),
    ".bz2": ("BZ2", bz2.compress),
    ".zst": ("ZSTD", lambda data: zstandard.ZstdCompressor().compress(data)),
    ".xz": ("XZ", lzma.compress),
    ".zl": ("DEFLATE", zlib.compress),
    ".deflate": ("RAW_DEFLATE", lambda data: zlib.compress(data, wbits=-15)),
    ".br": ("BROTLI", lambda data: pa.compress(data, "brotli", asbytes=True)),
    ".zip": ("ZIP", lambda data: zipped(data)),
}
ENCODINGS = ["gb18030", "utf-16le", "utf-16be", "windows-1252", "shift_jis"]


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return out.getvalue()


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"


def options_sql(kind, options):
    return f"(TYPE = {kind}" + "".join(f" {name} = {value}" for name, value in options.items()) + ")"


class TextWriter:
    """What CSV, TSV and NDJSON have in common: compression, encoding, a mark of byte order."""

    def __init__(self, random):
        self.random = random
        self.suffix = random.choice(list(COMPRESSIONS)) if random.random() < 0.5 else ""
        self.encoding = random.choice(ENCODINGS) if random.random() < 0.2 else "utf-8"
        self.alphabet = "abc é,;\"'\n" if self.encoding == "windows-1252" else "abc 車道,;\"\n" if self.encoding == "shift_jis" else None
        self.mark = random.random() < 0.1
        self.options = {}
        # What the writers of values need to know.
        self.values = {}
        if random.random() < 0.3:
            self.values["BINARY_FORMAT"] = self.options["BINARY_FORMAT"] = random.choice(["BASE64", "HEX"])
        if random.random() < 0.2:
            self.values["NAN_DISPLAY"] = "not a number"
            self.options["NAN_DISPLAY"] = "'not a number'"

    def fits(self, column):
        return True

    def save(self, path, text):
        """Writes the text. One that the encoding cannot say goes as UTF-8, and so do all files of the case."""
        if self.mark and self.encoding in ("utf-8", "utf-16le", "utf-16be"):
            text = "\ufeff" + text
        elif text.startswith("\ufeff"):
            text = "\ufeff" + text
        data = text.encode(self.encoding)
        name, compress = COMPRESSIONS[self.suffix]
        if self.suffix and self.random.random() < 0.5:
            self.options["COMPRESSION"] = name
        path.write_bytes(compress(data))

    def can_save(self, texts):
        try:
            for text in texts:
                text.encode(self.encoding)
        except UnicodeEncodeError:
            return False
        return True

    def write(self, folder, columns, batches):
        made = [self.text_of(columns, rows) for rows in batches]
        if not self.can_save([text for text, _, _ in made]):
            self.encoding = "utf-8"
        if self.encoding != "utf-8":
            self.options["ENCODING"] = f"'{self.encoding}'"
        files = []
        for n, (text, rows, lines) in enumerate(made):
            path = folder / f"{n}.{self.kind.lower()}{self.suffix}"
            self.save(path, text)
            files.append(File(path, rows, lines))
        self.check(files, columns)
        return files

    def check(self, files, columns):
        """Asks an independent reader whether the files are what they should be."""


class DelimitedWriter(TextWriter):
    """CSV and TSV."""

    def __init__(self, random):
        super().__init__(random)
        self.record_end = random.choice(["\n", "\n", "\n", "\r\n", "|", "\x1e"])
        self.delimiter = random.choice([self.usual, self.usual, ",", "\t", ";", "\x01", "||", "<->", "§", "::", "#*#*#", " "])
        if set(self.delimiter) & set(self.record_end):
            self.delimiter = ";"
        self.mixed_ends = self.record_end == "\n" and random.random() < 0.2
        self.trim = random.random() < 0.15 and not self.delimiter.isspace()
        self.null = random.choice(["\\N", "\\N", "NULL", "", "NA", "-", "n/a"])
        self.skip = random.choice([0, 0, 1, 1, 3])
        # Records that are too short or too long: allowed, or errors.
        self.ragged = random.random() < 0.15
        self.miscounted = not self.ragged and random.random() < 0.1
        self.empty = random.choice(["NULL", "STRING", "FIELD_DEFAULT"])
        self.options |= {
            "RECORD_DELIMITER": quoted(self.record_end), "FIELD_DELIMITER": quoted(self.delimiter),
            "NULL_DISPLAY": quoted(self.null), "SKIP_HEADER": self.skip, "EMPTY_FIELD_AS": self.empty,
        }
        if self.trim:
            self.options["TRIM_SPACE"] = "true"
        if self.ragged:
            self.options["ERROR_ON_COLUMN_COUNT_MISMATCH"] = "false"

    def wanted(self, column, value, content, empty):
        """What the table gets for a field with this content, NULL where it is None."""
        if content is None:
            return column.null()
        if content == "" and not (empty == "STRING" and isinstance(column.column, Varchar)):
            return column.absent() if empty == "FIELD_DEFAULT" else column.null()
        return content if isinstance(column.column, Varchar) else column.column.wanted(value)

    def end(self):
        return self.random.choice(["\n", "\r\n"]) if self.mixed_ends else self.record_end

    def text_of(self, columns, batch):
        random, text, rows, lines = self.random, [], [], []
        line = 1

        def add(record):
            nonlocal line
            text.append(record)
            line += record.count(self.record_end[-1])

        for n in range(self.skip):
            add(self.delimiter.join(f"header{n}.{i}" for i in range(random.randint(1, 4))) + self.end())
        for row in batch:
            keep = len(columns)
            if (self.ragged or self.miscounted) and random.random() < 0.1:
                keep = random.randint(1, len(columns))
            bad = self.miscounted and keep < len(columns)
            fields, values = [], {}
            for column in columns[:keep]:
                value = row[column.name]
                raw, content, empty = self.field(column, value)
                fields.append(raw)
                try:
                    values[column.name] = self.wanted(column, value, content, empty)
                except Misfit:
                    bad = True
            for column in columns[keep:]:
                try:
                    values[column.name] = column.absent()
                except Misfit:
                    bad = True
            if keep == len(columns) and (self.ragged or self.miscounted) and random.random() < 0.05:
                fields.append("extra")
                bad |= self.miscounted
            rows.append(None if bad else values)
            lines.append(line)
            add(self.delimiter.join(fields) + self.end())
            if self.kind == "CSV" and random.random() < 0.01:
                add(self.end())
        if batch and random.random() < 0.3:
            text[-1] = text[-1].removesuffix(self.record_end).removesuffix("\r" if self.record_end == "\n" else "")
        return "".join(text), rows, lines


class CsvWriter(DelimitedWriter):
    kind, usual = "CSV", ","

    def __init__(self, random):
        super().__init__(random)
        self.quote = random.choice(['"', '"', "'", "`"])
        self.escape = "\\" if random.random() < 0.2 else ""
        self.quoted_nulls = random.random() < 0.1
        self.quoted_empty = random.choice(["STRING", "STRING", "NULL", "FIELD_DEFAULT"])
        self.options |= {
            "QUOTE": quoted(self.quote), "ESCAPE": quoted(self.escape), "QUOTED_EMPTY_FIELD_AS": self.quoted_empty,
        }
        if self.quoted_nulls:
            self.options["ALLOW_QUOTED_NULLS"] = "true"
        self.always = random.random() < 0.1
        # Whether a quote stands within a field without quotes, where DuckDB takes it for one.
        self.bare_quotes = False

    def field(self, column, value):
        """What is written, what it contains, and what it means if that is nothing."""
        random = self.random
        if value is None:
            return self.null, None, self.empty
        text = column.column.text(random, value, self.values)
        content = text.strip(" \t\n\r\x0c") if self.trim else text
        # A quote elsewhere than at the beginning is a character like others.
        special = ["\n", "\r", self.record_end[0], self.delimiter[0]] + [self.quote] * (random.random() < 0.5)
        must = any(part in text for part in special) or content[:1] == self.quote or content == self.null
        must = must or (content == "" and random.random() < 0.7)
        if not (must or self.always or random.random() < 0.1):
            self.bare_quotes |= self.quote in text
            return text, content, self.empty
        if self.escape:
            inner = text.replace("\\", "\\\\").replace(self.quote, random.choice(["\\", self.quote]) + self.quote)
        else:
            inner = text.replace(self.quote, self.quote * 2)
        raw = self.quote + inner + self.quote
        if self.trim and random.random() < 0.3:
            raw = f" {raw}  "
        return raw, None if self.quoted_nulls and content == self.null else content, self.quoted_empty

    def check(self, files, columns):
        plain = self.encoding == "utf-8" and not (self.suffix or self.trim or self.escape or self.ragged or self.miscounted)
        if not plain or self.mixed_ends or self.bare_quotes or self.record_end not in ("\n", "\r\n") or len(self.delimiter.encode()) > 4 or self.quoted_nulls:
            return
        names = {f"f{n}": "VARCHAR" for n in range(len(columns))}
        for file in files:
            if not file.rows:
                continue
            found = duckdb.read_csv(
                str(file.path), columns=names, header=False, skiprows=self.skip, delimiter=self.delimiter, quotechar=self.quote,
                escapechar=self.quote, na_values=self.null, auto_detect=False, parallel=False, strict_mode=False,
            ).fetchall()
            assert len(found) == len(file.rows), f"DuckDB finds {len(found)} of {len(file.rows)} records in {file.path}"
            for row, fields in zip(file.rows, found):
                for column, text in zip(columns, fields):
                    if row is not None and isinstance(column.column, Varchar) and text and row[column.name] != text:
                        raise AssertionError(f"DuckDB finds {text!r}, not {row[column.name]!r} in {file.path}")


class TsvWriter(DelimitedWriter):
    kind, usual = "TSV", "\t"

    LETTERS = {"\b": "b", "\f": "f", "\r": "r", "\n": "n", "\t": "t", "\0": "0", "\\": "\\", "'": "'"}

    def field(self, column, value):
        if value is None:
            return self.null, None, self.empty
        random = self.random
        text = column.column.text(random, value, self.values)
        pieces = []
        for letter in text:
            needs = letter in ("\\", "\r", "\n", self.delimiter[0], self.record_end[-1])
            if not needs and not (letter in self.LETTERS and random.random() < 0.3):
                pieces.append(letter)
            elif letter in self.LETTERS and (self.trim or letter in "\\'\r" or letter not in (self.delimiter, self.record_end)):
                pieces.append("\\" + self.LETTERS[letter])
            elif letter in self.LETTERS and random.random() < 0.5:
                pieces.append("\\" + self.LETTERS[letter])
            else:
                pieces.append("\\" + letter)
        letters = list(zip(pieces, text))
        if self.trim:
            spaces = (" ", "\t", "\n", "\r", "\x0c")
            while letters and letters[0][0] in spaces:
                letters.pop(0)
            while letters and letters[-1][0] in spaces:
                letters.pop()
        raw = "".join(piece for piece, _ in letters)
        content = None if raw == self.null else "".join(letter for _, letter in letters)
        return "".join(pieces), content, self.empty


class NdjsonWriter(TextWriter):
    kind = "NDJSON"

    def __init__(self, random):
        super().__init__(random)
        self.missing = random.choice(["ERROR", "NULL", "FIELD_DEFAULT"])
        self.null = random.choice(["NULL", "FIELD_DEFAULT"])
        self.null_if = random.choice([[], [], ["NULL", "N/A"], [""]])
        self.options |= {"MISSING_FIELD_AS": self.missing, "NULL_FIELD_AS": self.null}
        if self.null_if:
            self.options["NULL_IF"] = "(" + ", ".join(quoted(text) for text in self.null_if) + ")"
        self.shuffle = random.random() < 0.2
        self.leave_out = random.choice([0, 0.02, 0.2])
        self.other_case = random.random() < 0.2
        self.twice = random.random() < 0.1

    def wanted(self, column, value, fragment):
        if fragment is None:
            if self.missing == "ERROR":
                raise Misfit
            return column.absent() if self.missing == "FIELD_DEFAULT" else column.null()
        if value is None:
            return column.absent() if self.null == "FIELD_DEFAULT" else column.null()
        read = json.loads(fragment)
        if isinstance(read, str) and read in self.null_if:
            return column.null()
        return column.column.wanted(value)

    def text_of(self, columns, batch):
        random, text, rows, lines = self.random, [], [], []
        line = 1
        for row in batch:
            fields, values, bad = [], {}, False
            for column in columns:
                value = row[column.name]
                fragment = random_columns.json_or_null(column.column, random, value, self.values)
                if column.name != "id" and random.random() < self.leave_out:
                    fragment = None
                try:
                    values[column.name] = self.wanted(column, value, fragment)
                except Misfit:
                    bad = True
                if fragment is None:
                    continue
                name = column.name.swapcase() if self.other_case and column.name.isascii() else column.name
                name = json.dumps(name, ensure_ascii=random.random() < 0.5)
                if self.twice and random.random() < 0.1:
                    fields.append((name, random.choice(["null", '"other"', "{}", "12"])))
                fields.append((name, fragment))
                if random.random() < 0.05:
                    fields.append((json.dumps(f"unknown {random.randrange(5)}"), random_columns.random_json(random)))
            if self.shuffle and not self.twice:
                random.shuffle(fields)
            space = random.choice(["", "", " ", "\t"])
            record = f",{space}".join(f"{name}{space}:{space}{fragment}" for name, fragment in fields)
            rows.append(None if bad else values)
            lines.append(line)
            text.append(f"{space}{{{record}{space}}}{space}" + random.choice(["\n", "\n", "\r\n"]))
            line += 1
            if random.random() < 0.02:
                text.append(random.choice(["\n", "  \n", "\r\n"]))
                line += 1
        if batch and random.random() < 0.3:
            text[-1] = text[-1].rstrip("\r\n")
        return "".join(text), rows, lines

    def check(self, files, columns):
        """Every line is JSON for another reader too, and holds the row's `id`."""
        for file in files:
            if self.suffix or self.encoding != "utf-8" or self.other_case:
                continue
            with open(file.path, encoding="utf-8-sig", newline="\n") as lines:
                records = [json.loads(line) for line in lines if line.strip()]
            assert len(records) == len(file.rows)
            for record, row in zip(records, file.rows):
                assert row is None or int(float(record["id"])) == row["id"] or abs(row["id"]) > 1 << 50


# ------------------------------------------------------------------------------------------------ columnar


class Unwritable(Exception):
    """The library has no way to write these columns."""


class ColumnarWriter:
    def __init__(self, random):
        self.random = random
        self.alphabet = None
        self.options = {}

    def fits(self, column):
        return True

    def write(self, folder, columns, batches):
        # Other columns than the table's, in another order, their names in another case.
        random = self.random
        extra = [] if random.random() < 0.5 else [TableColumn("not in the table", self.any_column())]
        stored = columns + extra
        random.shuffle(stored)
        upper = random.random() < 0.2
        self.missing = None
        droppable = [column for column in columns[1:] if not column.not_null or column.has_default]
        if droppable and random.random() < 0.2:
            self.missing = random.choice(droppable)
            stored.remove(self.missing)
            self.options["MISSING_FIELD_AS"] = "FIELD_DEFAULT"
        self.stored_name = {
            column.name: column.name.upper() if upper and column.name.isascii() else column.name for column in stored
        }
        files = []
        for n, rows in enumerate(batches):
            for row in rows:
                for column in extra:
                    row[column.name] = column.column.value(random)
            path = folder / f"{n}.{self.kind.lower()}"
            self.save(path, stored, rows)
            records = self.read(path, stored)
            assert len(records) == len(rows), f"another reader finds {len(records)} of {len(rows)} rows in {path}"
            back = {stored: name for name, stored in self.stored_name.items()}
            records = [{back[name]: value for name, value in record.items()} for record in records]
            files.append(File(path, self.wanted(columns, records), list(range(1, len(rows) + 1))))
        return files

    def any_column(self):
        column = random_column(self.random)
        while not self.fits(column):
            column = random_column(self.random)
        return column

    def wanted(self, columns, records):
        if not self.missing:
            return from_reader(columns, records)
        rows = from_reader([column for column in columns if column is not self.missing], records)
        value = self.missing.absent()
        return [None if row is None else {**row, self.missing.name: value} for row in rows]

    def arrow(self, columns, rows):
        arrays = [column.column.to_arrow([row[column.name] for row in rows]) for column in columns]
        fields = [
            pa.field(self.stored_name[column.name], array.type, self.random.random() < 0.9 or array.null_count > 0)
            for column, array in zip(columns, arrays)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class ParquetWriter(ColumnarWriter):
    kind = "PARQUET"

    def save(self, path, columns, rows):
        random = self.random
        self.table = table = self.arrow(columns, rows)
        if random.random() < 0.25 and self.save_by_duckdb(path, table):
            return
        version = random.choice(["1.0", "2.4", "2.6", "2.6"])
        choices = {
            "compression": random.choice(["none", "snappy", "gzip", "brotli", "zstd", "lz4"]),
            "version": version,
            "data_page_version": random.choice(["1.0", "2.0"]),
            "row_group_size": random.choice([1, 7, 64, 1000, 100_000]),
            "data_page_size": random.choice([64, 1024, 1 << 20]),
            "write_page_index": random.random() < 0.5,
            "write_page_checksum": random.random() < 0.5,
            "write_statistics": random.random() < 0.8,
            "store_schema": random.random() < 0.7,
            "use_compliant_nested_type": random.random() < 0.7,
            "store_decimal_as_integer": random.random() < 0.5,
            "use_dictionary": random.random() < 0.5,
        }
        if random.random() < 0.15:
            choices["use_deprecated_int96_timestamps"] = True
        if not choices["use_dictionary"]:
            encodings = {}
            for at, field_ in enumerate(table.schema):
                options = self.encodings(field_.type)
                if options and random.random() < 0.7:
                    encodings[field_.name] = random.choice(options)
            # Names with dots are paths there.
            encodings = {name: encoding for name, encoding in encodings.items() if "." not in name}
            if encodings:
                choices["column_encoding"] = encodings
        try:
            pq.write_table(table, path, **choices)
        except (pa.ArrowException, OSError):
            # Not every type goes with every choice there.
            self.write_plainly(path)

    @staticmethod
    def encodings(kind):
        if pa.types.is_integer(kind) or pa.types.is_date32(kind) or pa.types.is_timestamp(kind):
            return ["PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]
        if pa.types.is_floating(kind):
            return ["PLAIN", "BYTE_STREAM_SPLIT"]
        if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
            return ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]
        if pa.types.is_boolean(kind):
            return ["PLAIN", "RLE"]
        return []

    def save_by_duckdb(self, path, table):
        random = self.random
        codec = random.choice(["uncompressed", "snappy", "gzip", "zstd", "lz4_raw", "brotli"])
        settings = f"FORMAT parquet, COMPRESSION {codec}, PARQUET_VERSION {random.choice(['v1', 'v2'])}, ROW_GROUP_SIZE 2048"
        try:
            with duckdb.connect() as database:
                database.register("given", table)
                database.execute("SET TimeZone = 'UTC'")
                database.execute(f"COPY (SELECT * FROM given) TO '{path}' ({settings})")
        except duckdb.Error:
            return False
        return True

    def read(self, path, columns):
        try:
            return plain_rows(pq.read_table(path, coerce_int96_timestamp_unit="us"))
        except (OSError, pa.ArrowInvalid):
            # It does not read everything that it writes: DELTA_BINARY_PACKED without a value, for one.
            self.write_plainly(path)
            return plain_rows(pq.read_table(path))

    def write_plainly(self, path):
        try:
            pq.write_table(self.table, path)
        except pa.ArrowException as error:
            raise Unwritable from error


class OrcWriter(ColumnarWriter):
    kind = "ORC"

    @staticmethod
    def may_be_old(columns):
        """Our library refuses files of version 0.11 where neighbours are more than 63 bits apart."""
        inner = [inner for column in columns if column.name != "id" for inner in [column.column, *descendants(column.column)]]
        return not any(isinstance(column, Integer) and column.arrow == pa.int64() for column in inner)

    def fits(self, column):
        return column.in_orc and within_nanoseconds(column)

    def save(self, path, columns, rows):
        random = self.random
        pa.orc.write_table(
            self.arrow(columns, rows), str(path),
            compression=random.choice(["uncompressed", "snappy", "zlib", "lz4", "zstd"]),
            stripe_size=random.choice([1024, 64 * 1024, 64 << 20]),
            compression_block_size=random.choice([65_536, 262_144]),
            batch_size=random.choice([1, 100, 1024]),
            row_index_stride=random.choice([1000, 10_000]),
            dictionary_key_size_threshold=random.choice([0.0, 0.8, 1.0]),
            file_version=random.choice(["0.11", "0.12", "0.12"]) if self.may_be_old(columns) else "0.12",
        )

    def read(self, path, columns):
        return plain_rows(pa.orc.read_table(str(path)))


def within_nanoseconds(column):
    """Whether pyarrow, which reads nanoseconds from ORC, can hold a column's instants. It writes such fractions of
    a second before 1970 as are below 0; we refuse these."""
    times = [inner for inner in [column, *descendants(column)] if isinstance(inner, Timestamp)]
    for inner in times:
        inner.recent = True
    return all(inner.unit == "ns" for inner in times)


class AvroWriter(ColumnarWriter):
    kind = "AVRO"

    def fits(self, column):
        return bool(column.avro)

    def save(self, path, columns, rows):
        random = self.random
        fields = [
            {"name": self.stored_name[column.name], "type": random.choice([["null", column.column.avro], [column.column.avro, "null"]])}
            for column in columns
        ]
        schema = fastavro.parse_schema({"type": "record", "name": "Row", "fields": fields}, _write_hint=False)
        records = [
            {
                self.stored_name[column.name]: None if row[column.name] is None else column.column.to_avro(row[column.name])
                for column in columns
            }
            for row in rows
        ]
        with open(path, "wb") as file:
            fastavro.writer(
                file, schema, records, codec=random.choice(["null", "deflate", "bzip2", "xz"]),
                sync_interval=random.choice([1, 500, 16_000]),
            )

    def read(self, path, columns):
        with open(path, "rb") as file:
            return [{name: of_python(value) for name, value in record.items()} for record in fastavro.reader(file)]


EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def of_python(value):
    """A value of fastavro in those of `random_columns`."""
    if isinstance(value, datetime.datetime):
        since = value - EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if isinstance(value, datetime.date):
        return value.toordinal() - EPOCH.toordinal()
    if isinstance(value, list):
        return [of_python(item) for item in value]
    if isinstance(value, dict):
        return {key: of_python(item) for key, item in value.items()}
    return value


WRITERS = {
    writer.kind: writer for writer in (CsvWriter, TsvWriter, NdjsonWriter, ParquetWriter, OrcWriter, AvroWriter)
}
