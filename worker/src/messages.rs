//! Streams of Flight messages that say when they are complete.
//!
//! A stream that is cut off may end as if nothing more were to come. So the sender adds a message without a header,
//! which carries no Arrow data; only what came before it, and only with it, counts.

use std::sync::{Arc, OnceLock};

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use stevedore_common::{Error, Result};
use stevedore_status::{error_of_status, status_of};

/// The message that ends a stream.
pub(crate) fn end_message(metadata: Vec<u8>) -> FlightData {
    FlightData { app_metadata: metadata.into(), ..FlightData::default() }
}

/// Whether a stream was complete, known once it has ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Completion(Arc<OnceLock<Bytes>>);

impl Completion {
    /// What came with the last message; `None`: the stream was cut off.
    pub(crate) fn metadata(&self) -> Option<Bytes> {
        self.0.get().cloned()
    }
}

/// The batches of a stream up to the message that ends it.
pub(crate) fn batches(
    messages: BoxStream<'static, Result<FlightData>>,
) -> (FlightRecordBatchStream, Completion) {
    let completion = Completion::default();
    let end = completion.clone();
    let data = messages.try_take_while(move |message| {
        let goes_on = !message.data_header.is_empty();
        if !goes_on {
            // The first one is the end.
            let _ = end.0.set(message.app_metadata.clone());
        }
        futures::future::ready(Ok(goes_on))
    });
    let data = data.map_err(|e| FlightError::Tonic(Box::new(status_of(e)))).boxed();
    (FlightRecordBatchStream::new_from_flight_data(data), completion)
}

/// What went wrong with a stream; `what` names it.
pub(crate) fn failure(error: FlightError, what: &str) -> Error {
    match error {
        FlightError::Tonic(status) => error_of_status(&status),
        other => Error::invalid(format!("{what} cannot be read: {other}")),
    }
}
