//! Writes the first inputs of each target: small valid files, made here.
//!
//! `seeds [FOLDER]` writes to `FOLDER/<target>/` (default: `corpus`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroOcfFormat;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use stevedore_fuzz::KNOBS;

/// What instrumented code calls; in the targets these come with the fuzzer.
mod instrumentation {
    macro_rules! nothing {
        ($($name:ident($($argument:ty),*)),*) => {$(
            // SAFETY: it does nothing with what it is given, and no other symbol of this program has the name.
            #[unsafe(no_mangle)]
            extern "C" fn $name($(_: $argument),*) {}
        )*};
    }
    nothing!(
        __sanitizer_cov_8bit_counters_init(usize, usize),
        __sanitizer_cov_pcs_init(usize, usize),
        __sanitizer_cov_trace_cmp1(u8, u8),
        __sanitizer_cov_trace_cmp2(u16, u16),
        __sanitizer_cov_trace_cmp4(u32, u32),
        __sanitizer_cov_trace_cmp8(u64, u64),
        __sanitizer_cov_trace_const_cmp1(u8, u8),
        __sanitizer_cov_trace_const_cmp2(u16, u16),
        __sanitizer_cov_trace_const_cmp4(u32, u32),
        __sanitizer_cov_trace_const_cmp8(u64, u64),
        __sanitizer_cov_trace_switch(u64, usize),
        __sanitizer_cov_trace_div4(u32),
        __sanitizer_cov_trace_div8(u64),
        __sanitizer_cov_trace_gep(usize),
        __sanitizer_cov_trace_pc_indir(usize)
    );
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "corpus".into()));
    texts(&folder)?;
    for nested in [false, true] {
        let batch = batch(nested)?;
        for (n, properties) in parquet_properties().into_iter().enumerate() {
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
            writer.write(&batch)?;
            let bytes = writer.into_inner()?;
            for mode in 0..4 {
                save(&folder, "parquet", &format!("{nested}-{n}-{mode}"), &knobs(mode), &bytes)?;
            }
        }
        if !nested {
            orc(&folder, &batch)?;
        }
        arrow_ipc(&folder, nested, &batch)?;
        {
            let mut writer =
                WriterBuilder::new(batch.schema().as_ref().clone()).build::<_, AvroOcfFormat>(Vec::new())?;
            writer.write(&batch)?;
            writer.finish()?;
            let bytes = writer.into_inner();
            for mode in 0..4 {
                // The first byte of Avro's knobs is the size of pieces.
                let mut chosen = vec![255];
                chosen.extend_from_slice(&knobs(mode)[..KNOBS - 1]);
                save(&folder, "avro", &format!("{nested}-{mode}"), &chosen, &bytes)?;
            }
        }
    }
    for file in
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/decode/src/orc/testdata"))?
    {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "orc") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            for mode in 0..4 {
                save(&folder, "orc", &format!("{name}-{mode}"), &knobs(mode), &std::fs::read(&path)?)?;
            }
        }
    }
    Ok(())
}

/// No options; `mode` says what is asked of the file.
fn knobs(mode: u8) -> Vec<u8> {
    let mut chosen = vec![0; KNOBS];
    chosen[2] = mode;
    chosen
}

fn save(folder: &Path, target: &str, name: &str, chosen: &[u8], bytes: &[u8]) -> Done {
    let folder = folder.join(target);
    std::fs::create_dir_all(&folder)?;
    let mut file = std::fs::File::create(folder.join(name))?;
    file.write_all(chosen)?;
    file.write_all(bytes)?;
    Ok(())
}

fn batch(nested: bool) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, -2, i64::MAX, 4, 5]))),
        ("a", Arc::new(Int32Array::from(vec![Some(7), None, Some(7), Some(7), Some(i32::MIN)]))),
        ("b", Arc::new(StringArray::from(vec![Some("x"), Some(""), None, Some("é\n"), Some("NULL")]))),
        ("c", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true), Some(true)]))),
        ("d", Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(-0.0), Some(1e300)]))),
        ("e", Arc::new(Date32Array::from(vec![Some(0), Some(-1), Some(20_000), None, Some(2_932_896)]))),
        (
            "f",
            Arc::new(BinaryArray::from(vec![
                Some(&b"\0\xff"[..]),
                None,
                Some(b""),
                Some(b"abc"),
                Some(b"d"),
            ])),
        ),
        (
            "g",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(0), Some(-1), None, Some(1), Some(2)])
                    .with_timezone("UTC"),
            ),
        ),
    ];
    if nested {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
            Some(vec![Some(3)]),
            Some(vec![Some(4), Some(5), Some(6)]),
        ]);
        columns.push(("list", Arc::new(list)));
        let fields =
            Fields::from(vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)]);
        let children: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4), Some(5)])),
            Arc::new(StringArray::from(vec![Some("p"), Some("q"), None, Some("r"), Some("s")])),
        ];
        let nulls = vec![true, true, false, true, true].into();
        columns.push(("nested", Arc::new(StructArray::try_new(fields, children, Some(nulls))?)));
        let decimals = Decimal128Array::from(vec![Some(125), None, Some(-1), Some(0), Some(99_999)]);
        columns.push(("h", Arc::new(decimals.with_precision_and_scale(10, 2)?)));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
}

fn parquet_properties() -> Vec<WriterProperties> {
    let one = |codec, version, dictionary| {
        WriterProperties::builder()
            .set_compression(codec)
            .set_writer_version(version)
            .set_dictionary_enabled(dictionary)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(3))
    };
    use WriterVersion::{PARQUET_1_0, PARQUET_2_0};
    vec![
        one(Compression::UNCOMPRESSED, PARQUET_1_0, true).build(),
        one(Compression::UNCOMPRESSED, PARQUET_2_0, false).build(),
        one(Compression::SNAPPY, PARQUET_2_0, true).build(),
        one(Compression::LZ4_RAW, PARQUET_1_0, false).build(),
        one(Compression::UNCOMPRESSED, PARQUET_1_0, false)
            .set_column_encoding("id".into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding("b".into(), Encoding::DELTA_BYTE_ARRAY)
            .set_column_encoding("d".into(), Encoding::BYTE_STREAM_SPLIT)
            .build(),
    ]
}

fn orc(folder: &Path, batch: &RecordBatch) -> Done {
    // Its writer knows neither dates nor timestamps.
    let batch = batch.project(&[0, 1, 2, 3, 4, 6])?;
    let mut bytes = Vec::new();
    let mut writer = orc_rust::ArrowWriterBuilder::new(&mut bytes, batch.schema()).try_build()?;
    writer.write(&batch)?;
    writer.close()?;
    for mode in 0..4 {
        save(folder, "orc", &format!("written-{mode}"), &knobs(mode), &bytes)?;
    }
    Ok(())
}

fn arrow_ipc(folder: &Path, nested: bool, batch: &RecordBatch) -> Done {
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema())?;
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    for _ in 0..2 {
        file.write(batch)?;
        stream.write(batch)?;
    }
    for (is_stream, bytes) in [(0, file.into_inner()?), (1, stream.into_inner()?)] {
        for mode in 0..4 {
            // The first bytes say which of the two it is, and the size of pieces.
            let mut chosen = vec![is_stream, 255];
            chosen.extend_from_slice(&knobs(mode)[2..]);
            save(folder, "arrow_ipc", &format!("{nested}-{is_stream}-{mode}"), &chosen, &bytes)?;
        }
    }
    Ok(())
}

fn texts(folder: &Path) -> Done {
    let none = vec![0; KNOBS];
    for (target, name, text) in [
        ("csv", "plain", "1,a,2024-01-01,1.5\n2,\"b \"\"q\"\"\",,\\N\r\n\n3,\"line\nbreak\",x,\n"),
        ("json", "array", "[{\"a\": 1, \"id\": [1, 2]}, {\"a\": null}, {\"A\": \"x\"}]\n"),
        ("json", "values", "{\"a\": 1}\n\n{\"a\":\n 2, \"é\": {\"b\": []}} {\"c\": true}"),
        ("csv", "odd", "\"unclosed,1\n\"a\"b,\"c\",'d',`e`\n,,\n"),
        ("tsv", "plain", "1\ta\\tb\t\\N\t\n2\tb\\\nc\t\\\\N\tx\r\n\n"),
        (
            "ndjson",
            "plain",
            "{\"a\":1,\"b\":\"x\\u00e9\",\"c\":[1,{\"a\":null}]}\n\n{\"A\":1e3,\"id\":\"2\",\"a\":true}\r\n{\"a\":\n",
        ),
        ("blocks", "plain", "1,\"a\n\",b\\\nc\t\n2,x\n{\"a\":1}\n"),
    ] {
        save(folder, target, name, &none, text.as_bytes())?;
    }
    for (n, text) in
        ["1", "-2.5e3", "2024-02-29 12:34:56.789+01:00", "true", "[1,2]", "{\"a\":[null]}", "NaN", "00ff"]
            .iter()
            .enumerate()
    {
        save(folder, "cast", &n.to_string(), &none, text.as_bytes())?;
    }
    save(
        folder,
        "variant",
        "plain",
        b"",
        b" {\"b\":[1,-2.5e+3,\"\\ud83d\\ude00\",true,null,{}],\"a\":\"\\n\"} ",
    )?;
    save(
        folder,
        "charset",
        "utf16",
        &[1, 3],
        &"\u{feff}aé😀".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(),
    )?;
    save(folder, "charset", "jp", &[8, 3], b"\x1b$B%F\x1b(B")?;
    for codec in 0..16 {
        save(folder, "decompress", &codec.to_string(), &[codec, 7], b"some text, some text, some text")?;
    }
    let text = b"text text text text\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text)?;
    save(folder, "decompress", "gzip", &[0, 7], &gzip.finish()?)?;
    save(folder, "decompress", "zstd", &[1, 7], &zstd::encode_all(&text[..], 3)?)?;
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(text)?;
    save(folder, "decompress", "bz2", &[2, 7], &bz2.finish()?)?;
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(text)?;
    save(folder, "decompress", "xz", &[3, 7], &xz.finish()?)?;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file("f", zip::write::SimpleFileOptions::default())?;
    archive.write_all(text)?;
    save(folder, "decompress", "zip", &[7, 7], &archive.finish()?.into_inner())?;
    for (n, sql) in [
        "COPY INTO t (a, b) FROM (SELECT $1:a::INT, metadata$filename FROM @s/p/ (FILE_FORMAT => 'ndjson') x WHERE a > 1) PATTERN = '.*' ON_ERROR = SKIP_FILE_10%",
        "CREATE OR REPLACE TABLE IF NOT EXISTS d.t (a DECIMAL(10, 2) NOT NULL DEFAULT 1, b TUPLE(x INT, y MAP(VARCHAR, ARRAY(INT)))) PARTITION BY (bucket(3, a))",
        "CREATE STAGE s URL = 's3://b/p/' CONNECTION = (ACCESS_KEY_ID = 'x' SECRET_ACCESS_KEY = 'y') FILE_FORMAT = (TYPE = CSV FIELD_DELIMITER = '\\t')",
        "WITH x AS (SELECT 1) SELECT a:b['c'][0]::STRING, CASE WHEN 1 THEN 2 END FROM t JOIN x ON true GROUP BY 1 ORDER BY 1 LIMIT 5; SHOW TABLES",
        "INSERT INTO t VALUES (1, 'a''b', NULL), (?, $$x$$, {'a': 1})",
    ]
    .iter()
    .enumerate()
    {
        save(folder, "sql", &n.to_string(), b"", sql.as_bytes())?;
    }
    Ok(())
}
