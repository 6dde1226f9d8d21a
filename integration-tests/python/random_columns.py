"""Random columns: a type of the dialect, values of it, and what each format writes for a value.

Values are plain: an int for DATE (days) and TIMESTAMP (microseconds), a list of pairs for a MAP, a dict for a
TUPLE, JSON text for a VARIANT. `None` is NULL everywhere. A FLOAT is the float of the nearest single.
"""

import base64
import decimal
import json
import math

import numpy
import pyarrow as pa

MICROS_PER_DAY = 86_400_000_000
# 0001-01-01 and 9999-12-31, in days and in microseconds.
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
FIRST_MICRO, LAST_MICRO = FIRST_DAY * MICROS_PER_DAY, (LAST_DAY + 1) * MICROS_PER_DAY - 1
# What nanoseconds since 1970 reach.
FIRST_NANO, LAST_NANO = -(1 << 63) + 1, (1 << 63) - 1

ALPHABETS = [
    "abcXYZ019 _-",
    ",;|\t\"'`\\\r\n:=#",
    "äößéñ¿ €†ÿ",
    "行车道左右雨日本語한국어",
    "😀🚗👩‍👩‍👧\u0301\u200b\u2028\ufeff\u00a0",
    "\x01\x1f\x7f\x0b\x0c",
]
PLAIN_STRINGS = [
    "", " ", "\\N", "\\", "NULL", "null", "NaN", "nan", "inf", "0", "-", "true", "a,b", 'a"b', '"', '""', "''", "'",
    "\n", "\r\n", "\r", "a\nb", "\t", "\\t", "\\\\", "\\\"", "é", "\ufeff", " lead", "trail ", "#", "//", "{}", "[1,2]", "\"x\"",
    "x" * 1000, "日" * 300, "a\\", "\\,", "\\n",
]


class Misfit(Exception):
    """A value that the target type does not hold: its row is rejected."""


def single(value):
    return float(numpy.float32(value))


def random_string(random, alphabet=None):
    if alphabet is None and random.random() < 0.3:
        return random.choice(PLAIN_STRINGS)
    letters = alphabet or random.choice(ALPHABETS) + random.choice(ALPHABETS)
    text = "".join(random.choice(letters) for _ in range(random.choice([0, 1, 2, 3, 5, 8, 13, 40])))
    return text


def random_integer(random, low, high):
    pick = random.random()
    if pick < 0.25:
        return random.choice([low, low + 1, high, high - 1, 0, max(low, -1), 1])
    if pick < 0.6:
        return random.randint(max(low, -100), min(high, 100))
    return random.randint(low, high)


def random_json(random, depth=0):
    """JSON text, as somebody might write it."""
    pick = random.randrange(8 if depth < 3 else 6)
    space = random.choice(["", "", " "])
    match pick:
        case 0:
            return random.choice(["null", "true", "false"])
        case 1:
            return str(random_integer(random, -(1 << 63), (1 << 64) - 1))
        case 2:
            return random.choice(["0.5", "-1.25e3", "1E-7", "3.14159", "100.0", "-0.0", "12345678901234567890.5"])
        case 3 | 4 | 5:
            return json.dumps(random_string(random), ensure_ascii=random.random() < 0.5)
        case 6:
            inner = [random_json(random, depth + 1) for _ in range(random.randrange(4))]
            return f"[{space}" + f",{space}".join(inner) + f"{space}]"
        case _:
            names = random.sample(["a", "b", "A", "key with space", "ü", "", "x.y", "z\"q"], random.randrange(5))
            inner = [f"{json.dumps(name)}:{space}{random_json(random, depth + 1)}" for name in names]
            return f"{{{space}" + f",{space}".join(inner) + f"{space}}}"


class Column:
    """A type: its SQL, the Arrow type that Parquet and ORC files hold it in, and its values."""

    sql = ""
    arrow = None
    # What an Avro file holds it in, or None where Avro cannot.
    avro = None
    # Whether ORC has it.
    in_orc = True

    def value(self, random):
        raise NotImplementedError

    def text(self, random, value, options):
        """The value as text of CSV and TSV."""
        return str(value)

    def json(self, random, value, options):
        """The value as JSON, within NDJSON and within composite values."""
        return self.text(random, value, options)

    def to_arrow(self, values):
        return pa.array(values, self.arrow)

    def to_avro(self, value):
        return value

    def wanted(self, value):
        """What the table must hold for a value that the file holds."""
        return value

    def seen(self, value):
        """A value as another engine reads it from the table, in the form of `wanted`."""
        return value


class Boolean(Column):
    sql, arrow, avro = "BOOLEAN", pa.bool_(), "boolean"

    def value(self, random):
        return random.random() < 0.5

    def text(self, random, value, options):
        return random.choice(["true", "TRUE", "True", "1"] if value else ["false", "FALSE", "False", "0"])

    def json(self, random, value, options):
        return "true" if value else "false"


INTEGERS = {
    "TINYINT": (-(1 << 7), (1 << 7) - 1), "SMALLINT": (-(1 << 15), (1 << 15) - 1),
    "INT": (-(1 << 31), (1 << 31) - 1), "BIGINT": (-(1 << 63), (1 << 63) - 1),
    "TINYINT UNSIGNED": (0, (1 << 8) - 1), "SMALLINT UNSIGNED": (0, (1 << 16) - 1),
    "INT UNSIGNED": (0, (1 << 32) - 1), "BIGINT UNSIGNED": (0, (1 << 64) - 1),
}
INTEGER_ARROW = {
    "TINYINT": pa.int8(), "SMALLINT": pa.int16(), "INT": pa.int32(), "BIGINT": pa.int64(),
    "TINYINT UNSIGNED": pa.uint8(), "SMALLINT UNSIGNED": pa.uint16(), "INT UNSIGNED": pa.uint32(),
    "BIGINT UNSIGNED": pa.uint64(),
}


class Integer(Column):
    def __init__(self, random, source=None, target=None):
        self.sql = target or random.choice(list(INTEGERS))
        # Mostly the same type; else any, and some values may not fit.
        source = source or (self.sql if random.random() < 0.6 else random.choice(list(INTEGERS)))
        self.arrow = INTEGER_ARROW[source]
        self.range, self.source = INTEGERS[self.sql], INTEGERS[source]
        self.in_orc = "UNSIGNED" not in source
        low, high = self.source
        self.avro = "int" if -(1 << 31) <= low and high < 1 << 31 else "long" if high < 1 << 63 else None
        self.careless = random.random() < 0.1

    def value(self, random):
        low, high = self.source
        if not self.careless:
            low, high = max(low, self.range[0]), min(high, self.range[1])
        return random_integer(random, low, high)

    def text(self, random, value, options):
        return random.choice([str(value)] * 8 + [f"{value}.0", f"{value}e0"] + ([f"+{value}", f"0{value}"] if value >= 0 else []))

    def json(self, random, value, options):
        return random.choice([str(value)] * 6 + [f"{value}.0", f'"{value}"'])

    def wanted(self, value):
        if not self.range[0] <= value <= self.range[1]:
            raise Misfit
        return value

    def seen(self, value):
        return int(value)


class Float(Column):
    def __init__(self, random):
        self.sql = random.choice(["FLOAT", "DOUBLE"])
        self.single = self.sql == "FLOAT"
        # A single fits a DOUBLE; a double may be too large for a FLOAT.
        self.from_single = self.single or random.random() < 0.3
        self.arrow = pa.float32() if self.from_single else pa.float64()
        self.avro = "float" if self.from_single else "double"

    def value(self, random):
        pick = random.random()
        if pick < 0.25:
            return random.choice([
                0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0,
                single(3.4028234e38), single(1e-45), single(1.17549435e-38),
            ] + ([] if self.from_single else [1.7976931348623157e308, 5e-324, 2.2250738585072014e-308, 0.1, 1 / 3]))
        value = random.uniform(-1, 1) * 10 ** random.randint(-20, 20) if pick < 0.7 else random.randint(-1000, 1000) / 8
        return single(value) if self.from_single else value

    def text(self, random, value, options):
        if math.isnan(value):
            return options.get("NAN_DISPLAY", "NaN")
        if math.isinf(value):
            return ("-" if value < 0 else "") + random.choice(["inf", "Infinity", "INF"])
        # A DOUBLE that was a single is written as the double that it is.
        shortest = str(numpy.float32(value)) if self.single else repr(value)
        return random.choice([shortest, shortest, f"{value:.17e}", f"{value:.17g}"])

    def json(self, random, value, options):
        if math.isnan(value) or math.isinf(value):
            return json.dumps(self.text(random, value, options))
        return self.text(random, value, options)

    def seen(self, value):
        return float(value)


class Decimal(Column):
    def __init__(self, random):
        self.precision = random.choice([1, 4, 9, 10, 18, 19, 27, 38, random.randint(1, 38)])
        self.scale = random.choice([0, min(2, self.precision), self.precision, random.randint(0, self.precision)])
        self.sql = f"DECIMAL({self.precision}, {self.scale})"
        self.arrow = random.choice([pa.decimal128, pa.decimal128, pa.decimal256])(self.precision, self.scale)
        self.in_orc = not pa.types.is_decimal256(self.arrow)
        self.avro = {
            "type": "bytes", "logicalType": "decimal", "precision": self.precision, "scale": self.scale,
        }

    def value(self, random):
        most = 10**self.precision - 1
        unscaled = random.choice([0, 1, -1, most, -most, random.randint(-most, most), random.randint(-most, most)])
        return decimal.Decimal(unscaled).scaleb(-self.scale, context=WIDE)

    def text(self, random, value, options):
        plain = f"{value:f}"
        unscaled = int(value.scaleb(self.scale, context=WIDE))
        return random.choice([plain, plain, plain, f"{unscaled}e-{self.scale}"] + ([f"{plain}0"] if "." in plain else []))

    def json(self, random, value, options):
        plain = f"{value:f}"
        return random.choice([plain, json.dumps(plain)])

    def seen(self, value):
        return decimal.Decimal(value)


WIDE = decimal.Context(prec=100)


class Date(Column):
    sql = "DATE"

    def __init__(self, random):
        self.arrow = random.choice([pa.date32(), pa.date32(), pa.date64()])
        self.in_orc = self.arrow == pa.date32()
        self.avro = {"type": "int", "logicalType": "date"}

    def value(self, random):
        return random.choice([
            0, -1, FIRST_DAY, LAST_DAY, 19_782, -141_428, random.randint(-20_000, 40_000), random.randint(FIRST_DAY, LAST_DAY),
        ])

    def to_arrow(self, values):
        dates = pa.array(values, pa.int32()).cast(pa.date32())
        return dates.cast(self.arrow)

    def text(self, random, value, options):
        return str(numpy.datetime64(value, "D"))

    def json(self, random, value, options):
        return json.dumps(self.text(random, value, options))


UNITS = {"s": 1_000_000, "ms": 1000, "us": 1}


class Timestamp(Column):
    # Whether all values are from 1970 on.
    recent = False

    def __init__(self, random):
        self.sql = random.choice(["TIMESTAMP", "TIMESTAMP", "TIMESTAMP_TZ"])
        self.unit = random.choice(["s", "ms", "us", "us", "ns"])
        self.arrow = pa.timestamp(self.unit, random.choice([None, "UTC", "Europe/Berlin"]))
        self.avro_unit = "ms" if self.unit in ("s", "ms") else "us"
        self.avro = {"type": "long", "logicalType": f"timestamp-{'millis' if self.avro_unit == 'ms' else 'micros'}"}

    def value(self, random):
        """In the unit of the file."""
        if self.unit == "ns":
            value = random.choice([
                0, -1, 999, -999, FIRST_NANO, LAST_NANO, random.randint(FIRST_NANO, LAST_NANO), 1_700_000_000_123_456_789,
            ])
            return abs(value) if self.recent else value
        step = UNITS[self.unit]
        micros = random.choice([
            0, -1, FIRST_MICRO, LAST_MICRO, 1_709_251_199_999_999, random.randint(FIRST_MICRO, LAST_MICRO),
            random.randint(0, 2_000_000_000_000_000),
        ])
        return micros // step

    def to_arrow(self, values):
        return pa.array(values, pa.int64()).cast(self.arrow)

    def wanted(self, value):
        return value // 1000 if self.unit == "ns" else value * UNITS[self.unit]

    def wanted_of_read(self, value):
        return value

    def to_avro(self, value):
        return self.wanted(value) // UNITS[self.avro_unit]

    def text(self, random, value, options):
        unit = self.unit
        zone = random.choice(["", "", "Z", " UTC", "+00", "+05:30", "-0800", "+18:59"])
        shift = {"+05:30": 19_800, "-0800": -28_800, "+18:59": 68_340}.get(zone, 0)
        seconds_a_unit = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
        local = value + shift * seconds_a_unit
        if not FIRST_MICRO <= (local // 1000 if unit == "ns" else local * UNITS[unit]) <= LAST_MICRO:
            zone, local = "", value
        text = str(numpy.datetime64(local // seconds_a_unit, "s"))
        fraction = local % seconds_a_unit
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
        if digits and (fraction or random.random() < 0.5):
            text += f".{fraction:0{digits}}"
        return text.replace("T", random.choice(["T", " "])) + zone

    def json(self, random, value, options):
        return json.dumps(self.text(random, value, options))


class Varchar(Column):
    sql, avro = "VARCHAR", "string"

    def __init__(self, random, alphabet=None):
        self.alphabet = alphabet
        self.arrow = random.choice([
            pa.string(), pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
        ])
        self.in_orc = self.arrow in (pa.string(), pa.large_string())

    def value(self, random):
        return random_string(random, self.alphabet)

    def text(self, random, value, options):
        return value

    def json(self, random, value, options):
        return json.dumps(value, ensure_ascii=random.random() < 0.5)


class Binary(Column):
    sql, avro = "BINARY", "bytes"

    def __init__(self, random):
        self.size = random.choice([None, None, None, 1, 5, 16])
        self.arrow = random.choice([pa.binary(), pa.large_binary()]) if self.size is None else pa.binary(self.size)

    def value(self, random):
        size = random.choice([0, 1, 2, 3, 16, 100]) if self.size is None else self.size
        return random.randbytes(size)

    def text(self, random, value, options):
        if options.get("BINARY_FORMAT") == "BASE64":
            return base64.b64encode(value).decode()
        return random.choice([value.hex(), value.hex().upper()])

    def json(self, random, value, options):
        return json.dumps(self.text(random, value, options))


class Variant(Column):
    sql, arrow, avro = "VARIANT", pa.string(), "string"

    def value(self, random):
        # A null is a NULL in NDJSON; within a value it is itself.
        while True:
            value = random_json(random)
            if value.strip() != "null":
                return value

    def text(self, random, value, options):
        return value

    def wanted(self, value):
        return meaning(value)

    def seen(self, value):
        return meaning(value)


def meaning(text):
    """What JSON means: keys in any order, numbers by value."""
    return json.loads(text, parse_float=decimal.Decimal, parse_int=decimal.Decimal)


class Vector(Column):
    def __init__(self, random):
        self.size = random.choice([1, 2, 3, 8, 128])
        self.sql = f"VECTOR({self.size})"
        self.arrow = random.choice([pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), self.size)])
        self.in_orc = not pa.types.is_fixed_size_list(self.arrow)
        self.avro = {"type": "array", "items": "float"}

    def value(self, random):
        return [single(random.choice([0.0, 1.0, -0.5, random.uniform(-10, 10)])) for _ in range(self.size)]

    def text(self, random, value, options):
        return json.dumps([float(str(numpy.float32(item))) for item in value])


class Array(Column):
    def __init__(self, random, item):
        self.item = item
        self.sql = f"ARRAY({item.sql})"
        self.arrow = random.choice([pa.list_, pa.list_, pa.large_list])(item.arrow)
        self.in_orc = item.in_orc and pa.types.is_list(self.arrow)
        self.avro = item.avro and {"type": "array", "items": ["null", item.avro]}

    def value(self, random):
        size = random.choice([0, 0, 1, 2, 5])
        return [None if random.random() < 0.2 else self.item.value(random) for _ in range(size)]

    def text(self, random, value, options):
        return "[" + ", ".join(json_or_null(self.item, random, item, options) for item in value) + "]"

    def to_arrow(self, values):
        return nested_array(self, values)

    def to_avro(self, value):
        return [None if item is None else self.item.to_avro(item) for item in value]

    def wanted(self, value):
        return [None if item is None else self.item.wanted(item) for item in value]

    def wanted_of_read(self, value):
        return [None if item is None else of_read(self.item, item) for item in value]

    def seen(self, value):
        return [None if item is None else self.item.seen(item) for item in value]


class Tuple(Column):
    def __init__(self, random, fields):
        self.fields = fields
        self.sql = "TUPLE(" + ", ".join(f"{name} {column.sql}" for name, column in fields.items()) + ")"
        self.arrow = pa.struct([(name, column.arrow) for name, column in fields.items()])
        self.in_orc = all(column.in_orc for column in fields.values())
        self.record = f"Record{random.getrandbits(60):x}"
        self.avro = all(column.avro for column in fields.values()) and {
            "type": "record", "name": self.record,
            "fields": [{"name": name, "type": ["null", column.avro]} for name, column in fields.items()],
        }

    def _each(self, value, change):
        return {name: None if value[name] is None else change(column, value[name]) for name, column in self.fields.items()}

    def value(self, random):
        return {name: None if random.random() < 0.2 else column.value(random) for name, column in self.fields.items()}

    def text(self, random, value, options):
        return "{" + ", ".join(
            f"{json.dumps(name)}: {json_or_null(column, random, value[name], options)}" for name, column in self.fields.items()
        ) + "}"

    def to_arrow(self, values):
        return nested_array(self, values)

    def to_avro(self, value):
        return self._each(value, lambda column, item: column.to_avro(item))

    def wanted(self, value):
        return self._each(value, lambda column, item: column.wanted(item))

    def wanted_of_read(self, value):
        return self._each(value, of_read)

    def seen(self, value):
        return self._each(value, lambda column, item: column.seen(item))


class Map(Column):
    def __init__(self, random, value):
        self.item = value
        self.sql = f"MAP(VARCHAR, {value.sql})"
        self.arrow = pa.map_(pa.string(), value.arrow)
        self.in_orc = value.in_orc
        self.avro = value.avro and {"type": "map", "values": ["null", value.avro]}

    def value(self, random):
        keys = random.sample(["", "a", "b", "key", "ключ", "x y", "\"", "1"], random.choice([0, 1, 2, 4]))
        return [(key, None if random.random() < 0.2 else self.item.value(random)) for key in keys]

    def text(self, random, value, options):
        return "{" + ", ".join(
            f"{json.dumps(key)}: {json_or_null(self.item, random, item, options)}" for key, item in value
        ) + "}"

    def to_arrow(self, values):
        return nested_array(self, values)

    def to_avro(self, value):
        return {key: None if item is None else self.item.to_avro(item) for key, item in value}

    def _each(self, value, change):
        pairs = value.items() if isinstance(value, dict) else value
        return {key: None if item is None else change(self.item, item) for key, item in pairs}

    def wanted(self, value):
        return self._each(value, lambda column, item: column.wanted(item))

    def wanted_of_read(self, value):
        return self._each(value, of_read)

    def seen(self, value):
        return self._each(value, lambda column, item: column.seen(item))


def json_or_null(column, random, value, options):
    return "null" if value is None else column.json(random, value, options)


def of_read(column, value):
    """What the table must hold for a value that another reader found in the file: instants are microseconds."""
    if hasattr(column, "wanted_of_read"):
        return column.wanted_of_read(value)
    return column.wanted(value)


def descendants(column):
    """The columns within a column, at any depth."""
    children = [*getattr(column, "fields", {}).values(), *([column.item] if hasattr(column, "item") else [])]
    return children + [inner for child in children for inner in descendants(child)]


def nested_array(column, values):
    """An array of composite values, its leaves made by their own columns."""
    mask = pa.array([value is None for value in values], pa.bool_())
    if isinstance(column, Tuple):
        children = [
            field.to_arrow([None if value is None else value[name] for value in values])
            for name, field in column.fields.items()
        ]
        return pa.StructArray.from_arrays(children, fields=list(column.arrow), mask=mask)
    offsets, items = [0], []
    for value in values:
        items += value or []
        offsets.append(len(items))
    if isinstance(column, Map):
        keys = pa.array([key for key, _ in items], pa.string())
        inner = column.item.to_arrow([item for _, item in items])
        offsets = pa.array([None if value is None else at for at, value in zip(offsets, values)] + [offsets[-1]], pa.int32())
        return pa.MapArray.from_arrays(offsets, keys, inner, type=column.arrow)
    kind = pa.LargeListArray if pa.types.is_large_list(column.arrow) else pa.ListArray
    wide = pa.int64() if kind is pa.LargeListArray else pa.int32()
    return kind.from_arrays(pa.array(offsets, wide), column.item.to_arrow(items), type=column.arrow, mask=mask)


def random_column(random, alphabet=None, depth=0):
    """A column of any type. Within composite values nothing is careless, so that a row is bad for one reason."""
    scalars = [Integer] * 4 + [Float] * 2 + [Decimal] * 2 + [Date, Timestamp, Timestamp, Binary]
    if depth < 2 and random.random() < (0.3 if depth == 0 else 0.15):
        kind = random.choice([Array, Tuple, Map])
        if kind is Tuple:
            names = random.sample(["x", "y", "label", "n1", "n2"], random.randint(1, 3))
            return Tuple(random, {name: random_column(random, alphabet, depth + 1) for name in names})
        return kind(random, random_column(random, alphabet, depth + 1))
    pick = random.random()
    if pick < 0.2:
        return Varchar(random, alphabet)
    if pick < 0.27:
        return Boolean()
    if pick < 0.33 and depth == 0 and alphabet is None:
        return Variant()
    if pick < 0.38 and depth == 0:
        return Vector(random)
    column = random.choice(scalars)(random)
    if depth > 0 and isinstance(column, Integer):
        column = Integer(random, source=column.sql, target=column.sql)
    return column
