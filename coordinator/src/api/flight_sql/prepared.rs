//! Prepared statements: reusable handles, and parameters bound to them.
//!
//! A prepared handle is a [`StatementHandle`] too, so it works on any coordinator. Binding answers an
//! updated handle that carries the parameters; for clients that go on with the old one, the last
//! parameters of a handle are kept here as well, for a bounded number of handles.

use std::collections::{HashMap, VecDeque};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::{IpcMessage, SchemaAsIpc};
use futures::TryStreamExt;
use parking_lot::Mutex;
use stevedore_common::{Error, Result};
use tonic::{Request, Status};
use uuid::Uuid;

use crate::engine::StatementHandle;
use stevedore_status::status_of;

const MOST_BOUND: usize = 10_000;
/// Most rows of parameters that one call may bind.
const MOST_PARAMETER_ROWS: usize = 100_000;

/// Parameters of handles, by the handle's id.
#[derive(Debug, Default)]
pub struct PreparedStatements {
    bound: Mutex<Bound>,
}

#[derive(Debug, Default)]
struct Bound {
    parameters: HashMap<Uuid, Vec<u8>>,
    order: VecDeque<Uuid>,
}

impl PreparedStatements {
    pub(super) fn bind(&self, id: Uuid, ipc: Vec<u8>) {
        let mut bound = self.bound.lock();
        if bound.parameters.insert(id, ipc).is_none() {
            bound.order.push_back(id);
        }
        while bound.order.len() > MOST_BOUND {
            if let Some(oldest) = bound.order.pop_front() {
                bound.parameters.remove(&oldest);
            }
        }
    }

    /// The handle with its parameters, if they were bound to the old handle.
    pub(super) fn resolve(&self, handle: StatementHandle) -> StatementHandle {
        if handle.parameters.is_some() {
            return handle;
        }
        let ipc = self.bound.lock().parameters.get(&handle.id).cloned();
        match ipc {
            Some(ipc) => handle.with_parameters(&ipc),
            None => handle,
        }
    }

    pub(super) fn close(&self, id: Uuid) {
        let mut bound = self.bound.lock();
        if bound.parameters.remove(&id).is_some() {
            bound.order.retain(|other| *other != id);
        }
    }
}

/// The parameter rows of a `DoPut`.
pub(super) async fn read_parameters(
    request: Request<PeekableFlightDataStream>,
) -> std::result::Result<Vec<RecordBatch>, Status> {
    let data = request.into_inner().map_err(|status| FlightError::Tonic(Box::new(status)));
    let mut stream = FlightRecordBatchStream::new_from_flight_data(data);
    let mut batches = Vec::new();
    let mut rows = 0;
    loop {
        match stream.try_next().await {
            Ok(Some(batch)) => {
                rows += batch.num_rows();
                if rows > MOST_PARAMETER_ROWS {
                    return Err(status_of(
                        Error::exhausted(format!(
                            "more than {MOST_PARAMETER_ROWS} rows of parameters in one call"
                        ))
                        .hint("load them from a file with COPY INTO"),
                    ));
                }
                batches.push(batch);
            }
            Ok(None) => return Ok(batches),
            // A client without parameters sends no schema at all.
            Err(FlightError::DecodeError(_) | FlightError::NotYetImplemented(_)) if batches.is_empty() => {
                return Ok(batches);
            }
            Err(e) => return Err(status_of(Error::invalid(format!("the parameters cannot be read: {e}")))),
        }
    }
}

/// One row as an Arrow IPC stream.
pub(super) fn row_ipc(batch: &RecordBatch, row: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
    writer.write(&batch.slice(row, 1))?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// A schema as the bytes of an IPC message.
pub(super) fn schema_bytes(schema: &Schema) -> Result<bytes::Bytes> {
    let message: IpcMessage = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|e: arrow::error::ArrowError| Error::internal(format!("encoding a schema: {e}")))?;
    Ok(message.0)
}

/// The schema of `n` parameters, whose types are not known before they are bound.
pub(super) fn parameter_schema(n: usize) -> Schema {
    let fields: Vec<Field> =
        (1..=n).map(|i| Field::new(format!("${i}"), arrow::datatypes::DataType::Utf8, true)).collect();
    Schema::new(fields)
}
