"""Writes the files beside this script: `python write.py` with pyarrow installed."""

import datetime as dt
import decimal
import pathlib

import pyarrow as pa
from pyarrow import orc

folder = pathlib.Path(__file__).parent
utc = dt.timezone.utc

people = pa.table({
    "Id": pa.array([1, 2, 300, 4, 5], pa.int64()),
    "name": pa.array(["10", None, "x", "", "7"], pa.string()),
})
for codec in ["uncompressed", "zlib", "snappy", "lz4", "zstd"]:
    orc.write_table(people, folder / f"people_{codec}.orc", compression=codec)

point = pa.struct([("x", pa.float64()), ("y", pa.float32())])
types = pa.table({
    "flag": pa.array([True, None, False]),
    "tiny": pa.array([1, -128, None], pa.int8()),
    "small": pa.array([1, -32768, None], pa.int16()),
    "int": pa.array([1, -2147483648, None], pa.int32()),
    "big": pa.array([1, -(2**63), None], pa.int64()),
    "real": pa.array([1.5, float("nan"), None], pa.float32()),
    "double": pa.array([1.5, -0.25, None], pa.float64()),
    "text": pa.array(["a", "ä\n", None]),
    "bytes": pa.array([b"\x00\xff", b"", None]),
    "dec": pa.array([decimal.Decimal("-1.25"), decimal.Decimal("99999.99"), None], pa.decimal128(7, 2)),
    "wide": pa.array([decimal.Decimal(10) ** 37, decimal.Decimal(-1), None], pa.decimal128(38, 0)),
    "day": pa.array([dt.date(2022, 1, 8), dt.date(1900, 2, 28), None]),
    # Without a zone; nanoseconds that microseconds cannot hold; years that nanoseconds cannot hold.
    "local": pa.array([1_700_000_000_123_456_789, -86_400_000_000_000, None], pa.timestamp("ns")),
    "instant": pa.array([dt.datetime(2023, 11, 14, 22, 13, 20, 1, utc), dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=utc), None],
                        pa.timestamp("us", "UTC")),
    "list": pa.array([[1, None, 3], [], None], pa.list_(pa.int32())),
    "map": pa.array([[("k", 1), ("l", None)], [], None], pa.map_(pa.string(), pa.int64())),
    "point": pa.array([{"x": 1.5, "y": 2.5}, {"x": None, "y": 0.5}, None], point),
    "deep": pa.array([[{"at": dt.datetime(2020, 1, 1), "tags": ["a"]}], [], None],
                     pa.list_(pa.struct([("at", pa.timestamp("us")), ("tags", pa.list_(pa.string()))]))),
})
orc.write_table(types, folder / "types.orc", compression="zlib")

union = pa.UnionArray.from_dense(
    pa.array([0, 1, 0, 1], pa.int8()), pa.array([0, 0, 1, 1], pa.int32()),
    [pa.array([7, None], pa.int64()), pa.array(["t", "u"])],
)
orc.write_table(pa.table({"u": union, "n": pa.array([1, 2, 3, 4])}), folder / "union.orc")

# Lists whose lengths fill every kind of run: repeated, counting, random, with outliers.
lengths = [3] * 50 + list(range(100)) + [i * 7919 % 13 for i in range(300)]
lengths += [2000 if i % 60 == 7 else i % 5 for i in range(300)]
lists = pa.array([list(range(n)) for n in lengths], pa.list_(pa.int16()))
orc.write_table(pa.table({"l": lists}), folder / "lists.orc", compression="uncompressed")

# One nanosecond before 1970, which Arrow writes as second 0 and nanosecond -1.
early = pa.table({"id": pa.array([1, 2]), "at": pa.array([-1, 1], pa.timestamp("ns"))})
orc.write_table(early, folder / "before_1970.orc", compression="uncompressed")
