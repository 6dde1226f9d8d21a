"""Files that are damaged, hostile or of another kind than they claim, in every format. Nothing is checked in.

`bad_files(folder, scale)` makes them one by one and yields a `Bad` for each; a file may be removed once it was used.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import zipfile
from dataclasses import dataclass, field

import fastavro
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import zstandard

ROWS = 400
COLUMNS = "id BIGINT, name VARCHAR, amount DOUBLE, note VARCHAR"
MIB = 1 << 20


def row(n):
    return {"id": n, "name": f"name {n}", "amount": n / 4, "note": None if n % 7 == 0 else f"a longer note of row {n}"}


GOOD = [row(n) for n in range(ROWS)]
FORMATS = {
    "csv": "(TYPE = CSV)", "tsv": "(TYPE = TSV)", "ndjson": "(TYPE = NDJSON)", "parquet": "(TYPE = PARQUET)",
    "orc": "(TYPE = ORC)", "avro": "(TYPE = AVRO)", "json": "(TYPE = JSON)", "arrow": "(TYPE = ARROW)",
    "arrow_stream": "(TYPE = ARROW_STREAM)",
}
TEXT = ("csv", "tsv", "ndjson", "json")
JSON = ("ndjson", "json")


@dataclass
class Bad:
    name: str
    kind: str
    path: object
    # "error", "rows" (all of GOOD), or "either" (an error, or whatever the bytes say).
    expect: str = "error"
    format: str = ""
    columns: str = COLUMNS

    def __post_init__(self):
        self.format = self.format or FORMATS[self.kind]


def arrow_rows(rows):
    return pa.Table.from_pylist(rows, schema=pa.schema([
        ("id", pa.int64()), ("name", pa.string()), ("amount", pa.float64()), ("note", pa.string()),
    ]))


def good(kind, rows=None, **choices):
    """The rows as a file of a format."""
    rows = GOOD if rows is None else rows
    out = io.BytesIO()
    if kind == "ndjson":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return ("[\n" + ",\n".join(json.dumps(row, indent=1) for row in rows) + "\n]\n").encode()
    if kind in ("csv", "tsv"):
        separator = "," if kind == "csv" else "\t"
        fields = ([row["id"], row["name"], row["amount"], "\\N" if row["note"] is None else row["note"]] for row in rows)
        return "".join(separator.join(map(str, values)) + "\n" for values in fields).encode()
    if kind == "parquet":
        pq.write_table(arrow_rows(rows), out, **{"row_group_size": 100, **choices})
    elif kind == "orc":
        pa.orc.write_table(arrow_rows(rows), out, **{"stripe_size": 4096, "compression": "uncompressed", **choices})
    elif kind in ("arrow", "arrow_stream"):
        table = arrow_rows(rows)
        writer = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with writer(out, table.schema, options=pa.ipc.IpcWriteOptions(**choices)) as writer:
            writer.write_table(table, max_chunksize=100)
    else:
        schema = {"type": "record", "name": "Row", "fields": [
            {"name": "id", "type": "long"}, {"name": "name", "type": "string"}, {"name": "amount", "type": "double"},
            {"name": "note", "type": ["null", "string"]},
        ]}
        fastavro.writer(out, schema, rows, **{"sync_interval": 2000, **choices})
    return out.getvalue()


COMPRESSED = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
    ".br": lambda data: pa.compress(data, "brotli", asbytes=True),
    ".zip": lambda data: zipped(data),
}


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", data)
    return out.getvalue()


# ------------------------------------------------------------------------------------- every format alike


def damaged(kind, random):
    """(name, bytes, what is expected) of damage that every format can suffer."""
    whole = good(kind)
    text = kind in TEXT
    yield "empty", b"", "empty"
    yield "nul-filled", bytes(len(whole)), "error" if kind in JSON or not text else "either"
    yield "one-nul", b"\0", "error"
    for share in (0.02, 0.5, 0.98):
        yield f"truncated-{share}", whole[: int(len(whole) * share)], "either" if text else "error"
    yield "without-the-last-byte", whole[:-1], "rows" if text else "error"
    yield "bytes-after-the-end", whole + b"garbage\n", "error"
    for n in range(12):
        flipped = bytearray(whole)
        for _ in range(random.choice([1, 1, 3, 20])):
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        yield f"bits-flipped-{n}", bytes(flipped), "either"
    for n in range(4):
        start = random.randrange(len(whole) - 64)
        noise = whole[:start] + random.randbytes(64) + whole[start + 64:]
        yield f"noise-{n}", noise, "either"
    yield "noise-only", random.randbytes(5000), "error"
    yield "mixed-encodings", whole[:500] + "ü日".encode("utf-16le") + "é".encode("latin1") + whole[500:], "error" if not text else "either"
    for other in FORMATS:
        # CSV and TSV say nothing of themselves: any text is some.
        if (kind, other) == ("json", "ndjson"):
            yield f"is-{other}", good(other), "rows"
        elif other != kind and not (kind in ("csv", "tsv")):
            yield f"is-{other}", good(other), "error"
        elif other != kind and other not in TEXT:
            yield f"is-{other}", good(other), "error"
    yield "is-gzip", gzip.compress(whole), "error"


def compressed(kind, random):
    for suffix, compress in COMPRESSED.items():
        packed = compress(good(kind))
        yield suffix, "truncated", packed[: len(packed) // 2], "error"
        yield suffix, "not-compressed", good(kind), "error"
        # An archive may be followed by anything.
        yield suffix, "noise-after-it", packed + random.randbytes(100), "either" if suffix == ".zip" else "error"
        for n in range(3):
            flipped = bytearray(packed)
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
            yield suffix, f"bits-flipped-{n}", bytes(flipped), "either"
    yield ".gz", "empty", b"", "empty"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as two:
        two.writestr("a", good(kind))
        two.writestr("b", good(kind))
    yield ".zip", "of-two-files", archive.getvalue(), "error"


def bombs(mebibytes, contents):
    """Streams that become so many MiB, far more than they are."""
    pieces = {"nul": bytes(MIB), "lines": b"\n" * MIB, "rows": b"1,a,2,b\n" * (MIB // 8)}
    for content_name in contents:
        content = pieces[content_name]
        chunk = content * 16
        times = max(1, mebibytes // 16)
        yield ".gz", content_name, gzip.compress(chunk, 9) * times
        yield ".bz2", content_name, bz2.compress(chunk) * times
        yield ".xz", content_name, lzma.compress(chunk, preset=0) * times
        yield ".zst", content_name, zstandard.ZstdCompressor().compress(chunk) * times
        if content_name != "rows":
            yield ".br", content_name, pa.compress(content * mebibytes, "brotli", asbytes=True)
            yield ".zip", content_name, zipped(content * mebibytes)


# ------------------------------------------------------------------------------------------------- text


def huge_field(kind, path, mebibytes):
    """One field of so many MiB between rows that are good, written as it goes."""
    if kind == "json":
        texts = [json.dumps(row).encode() + b",\n" for row in GOOD]
        lines = [b"[\n" + texts[0], *texts[1:-1], texts[-1].rstrip(b",\n") + b"]\n"]
    else:
        lines = good(kind).splitlines(keepends=True)
    start, end = {
        "csv": (b'1,"', b'",1,x\n'), "tsv": (b"1\t", b"\t1\tx\n"),
        "ndjson": (b'{"id": 1, "name": "', b'", "amount": 1, "note": "x"}\n'),
        "json": (b'{"id": 1, "name": "', b'", "amount": 1, "note": "x"},\n'),
    }[kind]
    with open(path, "wb") as file:
        file.writelines(lines[:200])
        file.write(start)
        for _ in range(mebibytes):
            file.write(b"x" * MIB)
        file.write(end)
        file.writelines(lines[200:])


def odd_json():
    head, tail = good("json")[:-3] + b",\n", b"\n]\n"
    plain = b'"name": "x", "amount": 1, "note": "x"'
    wide = 100_000
    yield "columns-100000", head + json.dumps({**row(1), **{f"c{n}": n for n in range(wide)}}).encode() + tail, "either"
    for n, text in enumerate([b"[" * 10_000, b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000]):
        yield f"deep-{n}", head + b'{"id": 1, ' + plain + b', "z": ' + text + b"}" + tail, "error"
    yield "brackets-only", b"[" * 3_000_000, "error"
    yield "arrays-only", b"[]" * 1_500_000, "either"
    yield "array-of-arrays", b"[" + b"[]," * 1_000_000 + b"[]]", "error"
    yield "quotes-only", b'"' * 3_000_001, "error"
    yield "commas-only", b"[" + b"," * 3_000_000, "error"
    yield "comma-at-the-end", good("json")[:-3] + b",\n]\n", "error"
    yield "white-space-only", b" " * 3_000_000, "either"
    yield "without-commas", good("json").replace(b"},\n", b"}\n"), "error"
    yield "numbers", b"[" + b"1," * 500_000 + b"1]", "error"
    yield "long-number", b'[{"id": ' + b"1" * 100_000 + b", " + plain + b"}]", "error"
    yield "same-key-100000", b"[{" + b'"id": 1, ' * wide + plain + b"}]", "either"
    yield "bad-utf8", b'[{"id": 1, "name": "\xff\xfe", "amount": 1, "note": "x"}]', "error"


def odd_text(kind, scale):
    lines = good(kind).splitlines(keepends=True)
    wide = 100_000
    if kind == "ndjson":
        yield "columns-100000", b"".join(lines) + json.dumps({**row(1), **{f"c{n}": n for n in range(wide)}}).encode() + b"\n", "either"
        for n, text in enumerate(["[" * 10_000, "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000]):
            yield f"deep-{n}", b"".join(lines) + b'{"id": 1, "name": "x", "amount": 1, "note": "x", "z": ' + text.encode() + b"}\n", "error"
        yield "deep-lines", b"".join(b"[" * 10_000 + b"\n" for _ in range(50)), "error"
        yield "long-number", b'{"id": ' + b"1" * 100_000 + b', "name": "x", "amount": 1, "note": "x"}\n', "error"
        yield "long-exponent", b'{"id": 1, "name": "x", "amount": 1e' + b"9" * 100_000 + b', "note": "x"}\n', "error"
        yield "lone-surrogates", b'{"id": 1, "name": "\\ud800", "amount": 1, "note": "\\udfff"}\n', "either"
        yield "bad-utf8", b'{"id": 1, "name": "\xff\xfe", "amount": 1, "note": "x"}\n', "error"
        yield "same-key-100000", b"{" + b'"id": 1, ' * wide + b'"name": "x", "amount": 1, "note": "x"}\n', "either"
    else:
        comma = b"," if kind == "csv" else b"\t"
        yield "columns-100000", b"".join(lines) + comma.join(b"%d" % n for n in range(wide)) + b"\n", "error"
        yield "columns-100000-each", (comma.join(b"%d" % n for n in range(wide)) + b"\n") * 20, "error"
        yield "header-only", comma.join([b"id", b"name", b"amount", b"note"]) + b"\n", "error"
        yield "bad-utf8", comma.join([b"1", b"\xff\xfe", b"1", b"x"]) + b"\n", "error"
        yield "long-number", comma.join([b"1" * 100_000, b"x", b"1e" + b"9" * 100_000, b"x"]) + b"\n", "error"
        yield "delimiters-only", comma * 3_000_000 + b"\n", "error"
    if kind == "csv":
        yield "quotes-only", b'"' * 3_000_001, "error"
        yield "unclosed", b"".join(lines[:100]) + b'1,"' + b"".join(lines[100:]), "error"
        yield "quotes-everywhere", b'1,"a"b"c,"",""""\n' * 1000, "either"
    if kind == "tsv":
        yield "backslashes-only", b"\\" * 3_000_001, "error"
    yield "line-ends-only", b"\n" * 3_000_000, "either"
    # White space to JSON.
    yield "carriage-returns-only", b"\r" * 3_000_000, "either" if kind == "ndjson" else "error"


# -------------------------------------------------------------------------------------- Parquet by hand


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value):
    return varint((value << 1) ^ (value >> 63))


class Thrift:
    """The compact protocol: a struct is a dict of field ids to values; see `PARQUET`."""

    KINDS = {"i32": 5, "i64": 6, "binary": 8, "list": 9, "struct": 12}

    @classmethod
    def value(cls, kind, value):
        if kind in ("i32", "i64"):
            return zigzag(value)
        if kind == "binary":
            return varint(len(value)) + value
        if kind == "list":
            inner, items = value[0], value[1]
            claimed = value[2] if len(value) > 2 else len(items)
            return bytes([0xF0 | cls.KINDS[inner]]) + varint(claimed) + b"".join(cls.value(inner, item) for item in items)
        return cls.struct(value)

    @classmethod
    def struct(cls, fields):
        out, last = b"", 0
        for id, (kind, value) in fields.items():
            out += bytes([(id - last) << 4 | cls.KINDS[kind]]) + cls.value(kind, value)
            last = id
        return out + b"\0"


def parquet_by_hand(lies):
    """A file of one column, `id BIGINT`, of 10 rows, with some numbers replaced by lies."""
    def told(name, truth):
        return lies.get(name, truth)

    values = b"".join(struct.pack("<q", n) for n in range(10))
    page = Thrift.struct({
        1: ("i32", told("page type", 0)), 2: ("i32", told("page uncompressed", 80)), 3: ("i32", told("page compressed", 80)),
        5: ("struct", {1: ("i32", told("page values", 10)), 2: ("i32", told("page encoding", 0)), 3: ("i32", 3), 4: ("i32", 3)}),
    })
    body = b"PAR1" + page + values
    size = len(page) + len(values)
    leaf = {1: ("i32", told("type", 2)), 3: ("i32", told("repetition", 0)), 4: ("binary", b"id")}
    schema = [{4: ("binary", b"schema"), 5: ("i32", told("children", 1))}]
    path = []
    for n in range(lies.get("deep", 0)):
        schema.append({3: ("i32", told("group repetition", 1)), 4: ("binary", b"g"), 5: ("i32", 1)})
        path.append(b"g")
    schema += [leaf] * told("leaves", 1)
    chunk = {
        2: ("i64", 4),
        3: ("struct", {
            1: ("i32", 2), 2: ("list", ("i32", [0])), 3: ("list", ("binary", path + [b"id"])), 4: ("i32", told("codec", 0)),
            5: ("i64", told("values", 10)), 6: ("i64", told("uncompressed", size)), 7: ("i64", told("compressed", size)),
            9: ("i64", told("offset", 4)),
        }),
    }
    group = {1: ("list", ("struct", [chunk] * told("chunks", 1))), 2: ("i64", told("group size", size)), 3: ("i64", told("group rows", 10))}
    footer = Thrift.struct({
        1: ("i32", 1), 2: ("list", ("struct", schema) + ((lies["schema length"],) if "schema length" in lies else ())),
        3: ("i64", told("rows", 10)), 4: ("list", ("struct", [group] * told("groups", 1)) + ((lies["groups claimed"],) if "groups claimed" in lies else ())),
    })
    return body + footer + struct.pack("<I", told("footer", len(footer)) & 0xFFFFFFFF) + told("magic", b"PAR1")


HUGE = (1 << 62, (1 << 31) - 1, -1, -(1 << 63), 0)


def lying_parquet():
    yield "truth", {}, "either"
    for name in ("rows", "group rows", "values", "uncompressed", "compressed", "offset", "group size"):
        for lie in HUGE:
            yield f"{name}-{lie}", {name: lie}, "either"
    for name in ("page values", "page uncompressed", "page compressed", "page type", "page encoding", "children", "codec", "type", "repetition"):
        for lie in ((1 << 31) - 1, -1, 99, 0):
            yield f"{name}-{lie}", {name: lie}, "either"
    for lie in (0, 1, 0xFFFFFFFF, 0x7FFFFFFF):
        yield f"footer-{lie}", {"footer": lie}, "error"
    for lie in ((1 << 31) - 1, (1 << 32) - 1, 1 << 24):
        yield f"schema-length-{lie}", {"schema length": lie}, "error"
        yield f"groups-claimed-{lie}", {"groups claimed": lie}, "error"
    yield "all-rows-huge", {"rows": 1 << 40, "group rows": 1 << 40, "values": 1 << 40, "page values": (1 << 31) - 1}, "either"
    yield "no-columns", {"leaves": 0, "children": 0, "chunks": 0, "rows": 1 << 62, "group rows": 1 << 62}, "error"
    yield "no-chunks", {"chunks": 0}, "error"
    yield "groups-20000", {"groups": 20_000}, "either"
    yield "deep-50", {"deep": 50}, "either"
    yield "deep-1000", {"deep": 1000}, "error"
    yield "deep-10000", {"deep": 10_000}, "error"
    yield "deep-repeated-10000", {"deep": 10_000, "group repetition": 2}, "error"
    yield "encrypted", {"magic": b"PARE"}, "error"
    yield "no-magic", {"magic": b"PAR2"}, "error"


def parquet_bomb(mebibytes):
    """One string of so many MiB, compressed to next to nothing."""
    out = io.BytesIO()
    table = pa.table({"id": pa.array([1]), "name": pa.array(["x" * (mebibytes * MIB)], pa.large_string()), "amount": pa.array([1.0]), "note": pa.array(["x"])})
    pq.write_table(table, out, compression="zstd", write_statistics=False, use_dictionary=False)
    return out.getvalue()


def rows_of_long_texts(kind, rows):
    """Rows of 1 MiB of text each, (name, bytes), in files of a few KiB."""
    text = "x" * MIB
    once = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    table = pa.table({"id": range(rows), "name": once, "amount": [1.0] * rows, "note": ["x"] * rows})
    whole = table.set_column(1, "name", once.cast(pa.string()))
    written = io.BytesIO()
    if kind == "orc":
        for name, most in (("dictionary", 1.0), ("direct", 0.0)):
            written = io.BytesIO()
            options = {"compression": "zstd", "stripe_size": 4096 * MIB, "dictionary_key_size_threshold": most}
            pa.orc.write_table(whole, written, **options)
            yield name, written.getvalue()
        return
    options = {"compression": "zstd", "write_statistics": False}
    pq.write_table(table, written, dictionary_pagesize_limit=4 * MIB, **options)
    yield "dictionary", written.getvalue()
    written = io.BytesIO()
    encoding = {"name": "DELTA_BYTE_ARRAY"}
    pq.write_table(whole, written, use_dictionary=False, column_encoding=encoding, data_page_size=1 << 30, **options)
    yield "delta", written.getvalue()


def rows_of_long_lists(kind):
    """A few rows of millions of NULLs each."""
    lists = pa.array([[None] * 2_000_000] * 10, pa.list_(pa.int64()))
    table = pa.table({"id": range(10), "name": ["x"] * 10, "amount": [1.0] * 10, "note": ["x"] * 10, "z": lists})
    written = io.BytesIO()
    if kind == "orc":
        pa.orc.write_table(table, written, compression="zstd")
    else:
        pq.write_table(table, written, compression="zstd")
    return written.getvalue()


def wide_table(kind, columns):
    table = pa.table({**{name: [GOOD[1][name]] for name in GOOD[1]}, **{f"c{n}": [n] for n in range(columns)}})
    out = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, out, compression="none", write_statistics=False, use_dictionary=False)
    elif kind in ("arrow", "arrow_stream"):
        return arrow_file(kind, table)
    else:
        pa.orc.write_table(table, out)
    return out.getvalue()


# ------------------------------------------------------------------------------------------ ORC by hand


def protobuf(data):
    """The fields of a message: (number, value), an int or bytes."""
    at, fields = 0, []

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            fields.append((key >> 3, number()))
        elif key & 7 == 1:
            fields.append((key >> 3, data[at:at + 8]))
            at += 8
        else:
            length = number()
            fields.append((key >> 3, data[at:at + length]))
            at += length
    return fields


def message(fields):
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def replaced(data, number, value):
    """A message with a field replaced, or added."""
    fields = protobuf(data)
    kept = [(n, value if n == number else v) for n, v in fields]
    return message(kept if any(n == number for n, _ in fields) else kept + [(number, value)])


def lying_orc():
    whole = good("orc")
    length = whole[-1]
    postscript = whole[-1 - length:-1]
    footer_length = dict(protobuf(postscript))[1]
    body, footer = whole[: -1 - length - footer_length], whole[-1 - length - footer_length:-1 - length]

    def file(footer, **lies):
        told = postscript
        for number, value in {1: len(footer), **{int(name[1:]): value for name, value in lies.items()}}.items():
            told = replaced(told, number, value)
        return body + footer + told + bytes([len(told)])

    yield "truth", file(footer), "rows"
    for name, number in (("footer-length", 1), ("metadata-length", 5), ("compression-block", 3), ("compression", 2)):
        for lie in (1 << 62, (1 << 64) - 1, 1 << 31, 5000, 0):
            yield f"{name}-{lie}", file(footer, **{f"_{number}": lie}), "either"
    for lie in (0, 255, 1):
        yield f"postscript-{lie}", whole[:-1] + bytes([lie]), "error"
    fields = protobuf(footer)
    stripe = next(value for number, value in fields if number == 3)
    for name, number in (("offset", 1), ("index", 2), ("data", 3), ("stripe-footer", 4), ("stripe-rows", 5)):
        for lie in (1 << 62, (1 << 64) - 1, 1 << 31, 0):
            told = [(n, replaced(v, number, lie) if v is stripe else v) for n, v in fields]
            yield f"{name}-{lie}", file(message(told)), "either"
    for lie in (1 << 62, 0, 1 << 31):
        yield f"rows-{lie}", file(replaced(footer, 6, lie)), "error"
    both = [(n, replaced(v, 5, 1 << 62) if v is stripe else v) for n, v in fields]
    rows = sum(dict(protobuf(v)).get(5, 0) for n, v in both if n == 3)
    yield "all-rows-huge", file(replaced(message(both), 6, rows)), "error"
    types = [n for n, (number, _) in enumerate(fields) if number == 4]

    def with_types(types_):
        rest = [field for field in fields if field[0] != 4]
        return file(message(rest + [(4, type) for type in types_]))

    struct_of_one = message([(1, 12), (2, varint(1)), (3, b"id")])
    yield "type-of-itself", with_types([message([(1, 12), (2, varint(0)), (3, b"id")])]), "error"
    yield "list-of-itself", with_types([struct_of_one, message([(1, 10), (2, varint(1))])]), "error"
    yield "type-that-is-not-there", with_types([message([(1, 12), (2, varint(99)), (3, b"id")])]), "error"
    yield "no-types", with_types([]), "error"
    for depth in (1000, 10_000):
        deep = [struct_of_one] + [message([(1, 10), (2, varint(n + 2))]) for n in range(depth)] + [message([(1, 4)])]
        yield f"deep-{depth}", with_types(deep), "error"
    assert types


# ----------------------------------------------------------------------------------------- Avro by hand


def avro_file(schema, blocks, codec=b"null", entries=2, sync=b"s" * 16):
    text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    header = b"Obj\x01" + zigzag(entries)
    for key, value in ((b"avro.schema", text), (b"avro.codec", codec)):
        header += zigzag(len(key)) + key + zigzag(len(value)) + value
    header += zigzag(0) + sync
    return header + b"".join(zigzag(count) + zigzag(size) + data + sync for count, size, data in blocks)


AVRO_ROW = {"type": "record", "name": "Row", "fields": [
    {"name": "id", "type": "long"}, {"name": "name", "type": "string"}, {"name": "amount", "type": "double"}, {"name": "note", "type": "string"},
]}


def avro_row(name=b"x", claimed=None):
    return zigzag(1) + zigzag(len(name) if claimed is None else claimed) + name + struct.pack("<d", 1.0) + zigzag(1) + b"y"


def lying_avro(mebibytes):
    one = avro_row()
    yield "truth", avro_file(AVRO_ROW, [(1, len(one), one)]), "either"
    for lie in ((1 << 62), -1, 1 << 31, 2, 0, -(1 << 63)):
        yield f"records-{lie}", avro_file(AVRO_ROW, [(lie, len(one), one)]), "either"
        yield f"size-{lie}", avro_file(AVRO_ROW, [(1, lie, one)]), "error"
        yield f"entries-{lie}", avro_file(AVRO_ROW, [(1, len(one), one)], entries=lie), "either"
    for lie in (1 << 62, 1 << 31, -1, 100):
        bad = avro_row(claimed=lie)
        yield f"string-{lie}", avro_file(AVRO_ROW, [(1, len(bad), bad)]), "error"
    array = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}, {"name": "list", "type": {"type": "array", "items": "null"}}]}
    for lie in (1 << 62, 1 << 40, (1 << 31) - 1, -(1 << 63), -1):
        data = zigzag(1) + zigzag(lie) + (zigzag(8) if lie < 0 else b"") + zigzag(0)
        yield f"array-{lie}", avro_file(array, [(1, len(data), data)]), "either"
    fixed = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "long"}, {"name": "f", "type": ["null", {"type": "fixed", "name": "F", "size": (1 << 31) - 1}]}]}
    data = zigzag(1) + zigzag(0)
    yield "fixed-huge", avro_file(fixed, [(1, len(data), data)]), "either"
    yield "no-fields", avro_file({"type": "record", "name": "Row", "fields": []}, [(1 << 30, 0, b"")] * 100), "error"
    for depth in (100, 10_000):
        schema = '{"type":"array","items":' * depth + '"long"' + "}" * depth
        text = f'{{"type":"record","name":"Row","fields":[{{"name":"id","type":{schema}}}]}}'
        yield f"deep-{depth}", avro_file(text.encode(), [(1, len(one), one)]), "error"
    itself = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": ["null", "Row"]}]}
    yield "record-of-itself", avro_file(itself, [(1, 1, zigzag(0))]), "error"
    yield "schema-is-no-json", avro_file(b"{", []), "error"
    yield "schema-is-a-long", avro_file("long", [(1, 1, zigzag(1))]), "error"
    yield "codec-unknown", avro_file(AVRO_ROW, [(1, len(one), one)], codec=b"rar"), "error"
    wide = {"type": "record", "name": "Row", "fields": AVRO_ROW["fields"] + [{"name": f"c{n}", "type": "long"} for n in range(100_000)]}
    data = one + zigzag(7) * 100_000
    yield "columns-100000", avro_file(wide, [(1, len(data), data)]), "either"
    import zlib
    long = avro_row(b"x" * (mebibytes * MIB))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(long) + deflate.flush()
    yield "deflate-bomb", avro_file(AVRO_ROW, [(1, len(packed), packed)], codec=b"deflate"), "either"
    packed = bz2.compress(long)
    yield "bzip2-bomb", avro_file(AVRO_ROW, [(1, len(packed), packed)], codec=b"bzip2"), "either"


# ---------------------------------------------------------------------------------------- Arrow by hand


def arrow_file(kind, table, **options):
    out = io.BytesIO()
    writer = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
    with writer(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return out.getvalue()


def lying_arrow(kind, scale):
    rows = 12_345
    table = pa.table({
        "id": pa.array([1] * rows, pa.int64()), "name": pa.array(["x"] * rows), "amount": pa.array([1.0] * rows),
        "note": pa.array([None] * rows, pa.string()),
    })
    whole, packed = arrow_file(kind, table), arrow_file(kind, table, compression="zstd")

    def lie(data, truth, number):
        return data.replace(struct.pack("<q", truth), struct.pack("<q", number))

    yield "truth", whole, "either"
    for number in (1 << 62, 1 << 39, 1 << 31, -1, 0, rows + 1):
        yield f"rows-{number}", lie(whole, rows, number), "error" if number else "either"
        yield f"packed-rows-{number}", lie(packed, rows, number), "error" if number else "either"
        # The sizes of buffers of 8 bytes a row, as they are and once they are decompressed.
        yield f"buffer-{number}", lie(whole, rows * 8, number), "either"
        yield f"packed-buffer-{number}", lie(packed, rows * 8, number), "error"
    # A file begins with its magic.
    at = 4 if kind == "arrow_stream" else 12
    for number in (0, -1, (1 << 31) - 1, 1 << 28, 8):
        length = struct.pack("<i", number)
        yield f"metadata-{number}", whole[:at] + length + whole[at + 4:], "either"
        if kind == "arrow":
            yield f"footer-{number}", whole[:-10] + length + whole[-6:], "error"
    nulls = pa.table({"id": pa.nulls(1 << 20), "name": pa.nulls(1 << 20)})
    yield "rows-without-bytes", arrow_file(kind, nulls), "either"
    yield "more-rows-without-bytes", lie(arrow_file(kind, nulls), 1 << 20, 1 << 50), "error"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000 * scale, pa.int32()), pa.array(["x" * (4 << 10)]))
    yield "one-text-in-all-rows", arrow_file(kind, pa.table({"id": [1] * len(text), "name": text})), "either"
    for codec in ("zstd", "lz4"):
        text = pa.array(["x" * (80 * scale * MIB)], pa.large_string())
        yield f"bomb-{codec}", arrow_file(kind, pa.table({"id": [1], "name": text}), compression=codec), "either"
    # As deep as pyarrow writes.
    deep = pa.int64()
    for _ in range(50):
        deep = pa.list_(deep)
    yield "deep-50", arrow_file(kind, pa.table({"id": [1], "z": pa.nulls(1, deep)})), "either"


# ------------------------------------------------------------------------------------------------- all


def bad_files(folder, kind, seed, scale):
    """All bad files of a format; `scale` is 1 for what is quick, 12 and more for what is asked of a release."""
    chosen = random.Random(f"{seed}/{kind}")

    def made(name, data, expect, suffix=""):
        path = folder / f"{name.replace(' ', '-')}.{kind}{suffix}"
        path.write_bytes(data)
        return Bad(name, kind, path, expect)

    for name, data, expect in damaged(kind, chosen):
        yield made(name, data, expect)
    if kind in TEXT:
        for suffix, name, data, expect in compressed(kind, chosen):
            yield made(f"{suffix[1:]}-{name}", data, expect, suffix)
        for name, data, expect in odd_json() if kind == "json" else odd_text(kind, scale):
            yield made(name, data, expect)
        path = folder / f"huge-field.{kind}"
        huge_field(kind, path, 80 * scale)
        yield Bad("huge-field", kind, path)
    if kind == "csv":
        # Bombs of lines take a while in a binary that is not optimised.
        for suffix, name, data in bombs(320 * scale, ["nul"] if scale == 1 else ["nul", "lines", "rows"]):
            # Rows that gzip packs within the limit of its ratio are rows.
            yield made(f"bomb-{suffix[1:]}-{name}", data, "either" if (suffix, name) == (".gz", "rows") else "error", suffix)
    if kind == "parquet":
        for name, lies, expect in lying_parquet():
            yield made(f"lie-{name}", parquet_by_hand(lies), expect)
        yield made("bomb", parquet_bomb(80 * scale), "either")
        for name, data in rows_of_long_texts(kind, 400 * scale):
            yield made(f"long-texts-{name}", data, "either")
        yield made("long-lists", rows_of_long_lists(kind), "either")
        yield made("columns-many", wide_table(kind, 2000 if scale == 1 else 100_000), "either")
    if kind == "orc":
        for name, data, expect in lying_orc():
            yield made(f"lie-{name}", data, expect)
        out = io.BytesIO()
        text = "x" * (80 * scale * MIB)
        pa.orc.write_table(pa.table({"id": [1], "name": [text], "amount": [1.0], "note": ["x"]}), out, compression="zstd")
        yield made("bomb", out.getvalue(), "either")
        for name, data in rows_of_long_texts(kind, 400 * scale):
            yield made(f"long-texts-{name}", data, "either")
        yield made("long-lists", rows_of_long_lists(kind), "either")
        yield made("columns-many", wide_table(kind, 2000 if scale == 1 else 20_000), "either")
    if kind in ("arrow", "arrow_stream"):
        for name, data, expect in lying_arrow(kind, scale):
            yield made(f"lie-{name}", data, expect)
        yield made("columns-many", wide_table(kind, 2000 if scale == 1 else 100_000), "either")
    if kind == "avro":
        for name, data, expect in lying_avro(80 * scale):
            yield made(f"lie-{name}", data, expect)
