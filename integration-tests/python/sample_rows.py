"""One set of rows in every type, as files of each format and as what a reader of the table must see."""

import csv
import datetime
import decimal
import json

import fastavro
import numpy
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet

UTC = datetime.timezone.utc

CREATE = """
CREATE TABLE {table} (
    id BIGINT NOT NULL, flag BOOLEAN, tiny TINYINT, small SMALLINT UNSIGNED, whole INT, huge BIGINT UNSIGNED,
    single FLOAT, real DOUBLE, price DECIMAL(12, 2), day DATE, at TIMESTAMP, name VARCHAR, raw BINARY,
    tags ARRAY(VARCHAR), counts MAP(VARCHAR, BIGINT), place TUPLE(x DOUBLE, label VARCHAR), doc VARIANT,
    vector VECTOR(3)
)
"""
COLUMNS = [
    "id", "flag", "tiny", "small", "whole", "huge", "single", "real", "price", "day", "at", "name", "raw", "tags",
    "counts", "place", "doc", "vector",
]
# What each column is in the table's Iceberg schema.
ICEBERG_TYPES = {
    "id": "long", "flag": "boolean", "tiny": "int", "small": "int", "whole": "int", "huge": "decimal(20, 0)",
    "single": "float", "real": "double", "price": "decimal(12, 2)", "day": "date", "at": "timestamptz",
    "name": "string", "raw": "binary", "tags": "list<string>", "counts": "map<string, long>", "doc": "string",
    "vector": "list<float>",
}


def row(id):
    """A row, with a NULL in every column but `id` where `id` is a multiple of five."""
    if id % 5 == 0:
        return {"id": id, **{column: None for column in COLUMNS[1:]}}
    return {
        "id": id,
        "flag": id % 2 == 0,
        "tiny": id % 100 - 50,
        "small": 65_000 + id % 500,
        "whole": id * 7 - 1000,
        "huge": 18_446_744_073_709_551_615 - id,
        "single": float(numpy.float32(id / 4)),
        "real": id * 1.1,
        "price": decimal.Decimal(id * 31 - 500).scaleb(-2),
        "day": datetime.date(2024, 1, 1) + datetime.timedelta(days=id),
        "at": datetime.datetime(2024, 2, 29, 23, 59, 58, 123_456, UTC) + datetime.timedelta(seconds=id),
        "name": f'row "{id}", 行\\{id}',
        "raw": bytes([id % 256, 0, 255]),
        "tags": [f"t{n}" for n in range(id % 3)],
        "counts": [("a", id), ("b", None)],
        "place": {"x": id / 2, "label": f"p{id}"},
        "doc": json.dumps({"id": id, "nested": {"list": [1, 2.5, None, "x"]}}, separators=(",", ":")),
        "vector": [float(id), 0.5, -1.0],
    }


def rows(count):
    return [row(id) for id in range(1, count + 1)]


def json_value(column, value):
    if value is None:
        return None
    if column == "doc":
        return json.loads(value)
    if column == "price":
        return str(value)
    if column == "counts":
        return dict(value)
    if column == "raw":
        return value.hex()
    if column == "day":
        return value.isoformat()
    if column == "at":
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    return value


def write_ndjson(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            line = {column: json_value(column, value) for column, value in row.items()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_json(path, rows):
    elements = [{column: json_value(column, value) for column, value in row.items()} for row in rows]
    path.write_text(json.dumps(elements, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            fields = []
            for column, value in row.items():
                value = json_value(column, value)
                if value is None:
                    value = "\\N"
                elif column in ("tags", "counts", "place", "vector", "doc", "flag"):
                    value = json.dumps(value, ensure_ascii=False)
                fields.append(value)
            writer.writerow(fields)


SOURCE_SCHEMA = pa.schema([
    pa.field("id", pa.int64(), nullable=False),
    ("flag", pa.bool_()), ("tiny", pa.int8()), ("small", pa.uint16()), ("whole", pa.int32()), ("huge", pa.uint64()),
    ("single", pa.float32()), ("real", pa.float64()), ("price", pa.decimal128(12, 2)), ("day", pa.date32()),
    ("at", pa.timestamp("us", tz="UTC")), ("name", pa.string()), ("raw", pa.binary()),
    ("tags", pa.list_(pa.string())), ("counts", pa.map_(pa.string(), pa.int64())),
    ("place", pa.struct([("x", pa.float64()), ("label", pa.string())])), ("doc", pa.string()),
    ("vector", pa.list_(pa.float32())),
])


def write_parquet(path, rows):
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=SOURCE_SCHEMA), path, row_group_size=40)


def write_arrow(path, rows):
    table = pa.Table.from_pylist(rows, schema=SOURCE_SCHEMA)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=25)


def write_arrow_stream(path, rows):
    table = pa.Table.from_pylist(rows, schema=SOURCE_SCHEMA)
    # A text with a dictionary, that grows from batch to batch.
    name = table.schema.get_field_index("name")
    table = table.set_column(name, "name", table.column("name").cast(pa.large_string()).dictionary_encode())
    options = pa.ipc.IpcWriteOptions(compression="zstd", emit_dictionary_deltas=True)
    with pa.ipc.new_stream(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=25)


def without_unsigned(schema):
    """The schema in the types that ORC has."""
    wider = {pa.uint16(): pa.int32(), pa.uint64(): pa.decimal128(20, 0)}
    return pa.schema([field.with_type(wider.get(field.type, field.type)) for field in schema])


def write_orc(path, rows):
    table = pa.Table.from_pylist(rows, schema=without_unsigned(SOURCE_SCHEMA))
    pa.orc.write_table(table, str(path), compression="zstd", stripe_size=64 * 1024)


def nullable(type):
    return ["null", type]


AVRO_SCHEMA = fastavro.parse_schema({
    "type": "record",
    "name": "Row",
    "namespace": "samples",
    "fields": [{"name": "id", "type": "long"}] + [
        {"name": name, "type": nullable(type)} for name, type in [
            ("flag", "boolean"), ("tiny", "int"), ("small", "int"), ("whole", "int"),
            ("huge", {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0}),
            ("single", "float"), ("real", "double"),
            ("price", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}),
            ("day", {"type": "int", "logicalType": "date"}),
            ("at", {"type": "long", "logicalType": "timestamp-micros"}),
            ("name", "string"), ("raw", "bytes"), ("tags", {"type": "array", "items": "string"}),
            ("counts", {"type": "map", "values": nullable("long")}),
            ("place", {"type": "record", "name": "Place", "fields": [
                {"name": "x", "type": "double"}, {"name": "label", "type": "string"}]}),
            ("doc", "string"), ("vector", {"type": "array", "items": "float"}),
        ]
    ],
})


def avro_value(column, value):
    if value is None:
        return None
    if column == "huge":
        return decimal.Decimal(value)
    return dict(value) if column == "counts" else value


def write_avro(path, rows):
    records = [{column: avro_value(column, value) for column, value in row.items()} for row in rows]
    with open(path, "wb") as file:
        # Small blocks, so that there are several.
        fastavro.writer(file, AVRO_SCHEMA, records, codec="deflate", sync_interval=1000)


WRITERS = {
    "csv": write_csv, "ndjson": write_ndjson, "parquet": write_parquet, "orc": write_orc, "avro": write_avro,
    "json": write_json, "arrow": write_arrow, "arrow_stream": write_arrow_stream,
}
FORMATS = {
    "csv": "(TYPE = CSV SKIP_HEADER = 1)",
    "ndjson": "(TYPE = NDJSON)",
    "parquet": "(TYPE = PARQUET)",
    "orc": "(TYPE = ORC)",
    "avro": "(TYPE = AVRO)",
    "json": "(TYPE = JSON)",
    "arrow": "(TYPE = ARROW)",
    "arrow_stream": "(TYPE = ARROW_STREAM)",
}


def canonical(value):
    """JSON text compared by what it means."""
    return None if value is None else json.loads(value)
