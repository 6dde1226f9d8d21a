"""The sample files of the guide, in the folder that its examples call /data.

    python guide_files.py FOLDER
"""

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

CUSTOMERS = ["Ada", "Grace", "Edsger", "Barbara"]


def orders(first, count):
    lines = ["id,customer,amount,placed_at"]
    for id in range(first, first + count):
        lines.append(f"{id},{CUSTOMERS[id % 4]},{id * 3 % 100}.{id % 100:02},2024-05-{id % 28 + 1:02} 10:00:00")
    return "\n".join(lines) + "\n"


def events(first, count):
    kinds = ["view", "click", "buy"]
    return "".join(
        json.dumps({
            "id": id, "at": f"2024-05-01T10:00:{id % 60:02}Z", "kind": kinds[id % 3],
            "payload": {"user": {"name": CUSTOMERS[id % 4]}, "items": [id, id + 1]},
        }) + "\n"
        for id in range(first, first + count)
    )


def items(first, count):
    ids = range(first, first + count)
    return pa.table({
        "id": pa.array(ids, pa.int64()),
        "sku": [f"sku-{id:04}" for id in ids],
        "price": [id * 0.25 for id in ids],
        "made_at": pa.array([1_714_550_400_000_000 + id for id in ids], pa.timestamp("us", tz="UTC")),
        "embedding": pa.array([[id / 10, 0.5, 0.25, 1.0] for id in ids], pa.list_(pa.float32())),
        "attributes": [json.dumps({"color": "red", "size": id % 5}) for id in ids],
    })


def write(folder):
    folder = Path(folder)
    for name in ("orders", "events", "items", "broken"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "orders/orders-1.csv").write_text(orders(1, 100))
    (folder / "orders/orders-2.csv").write_text(orders(101, 100))
    with gzip.open(folder / "orders/orders-3.csv.gz", "wt") as file:
        file.write(orders(201, 100))
    (folder / "events/events-1.ndjson").write_text(events(1, 100))
    (folder / "events/events-2.ndjson").write_text(events(101, 100))
    pa.parquet.write_table(items(1, 100), folder / "items/items-1.parquet")
    pa.parquet.write_table(items(101, 100), folder / "items/items-2.parquet")
    good = orders(1, 5)
    (folder / "broken/orders-bad.csv").write_text(good + "six,Ada,1.00,2024-05-06 10:00:00\n7,Ada,2.50,2024-05-07 10:00:00\n")


if __name__ == "__main__":
    write(sys.argv[1])
