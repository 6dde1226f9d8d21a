//! Streams of Flight messages that say when they are complete.
//!
//! A stream that is cut off may end as if nothing more were to come. So the sender adds a message without a header,
//! which carries no Arrow data; only what came before it, and only with it, counts.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, MutableArrayData, RecordBatch, RecordBatchOptions, make_array};
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

/// A copy that shares no memory: the arrays of a message all hold on to all of it, and each would be counted as that.
pub(crate) fn owned(batch: &RecordBatch) -> Result<RecordBatch> {
    let copy = |column: &ArrayRef| {
        let data = column.to_data();
        let mut copy = MutableArrayData::new(vec![&data], false, data.len());
        copy.extend(0, 0, data.len());
        make_array(copy.freeze())
    };
    let columns = batch.columns().iter().map(copy).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

/// What went wrong with a stream; `what` names it.
pub(crate) fn failure(error: FlightError, what: &str) -> Error {
    match error {
        FlightError::Tonic(status) => error_of_status(&status),
        other => Error::invalid(format!("{what} cannot be read: {other}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Int64Array, StringArray};
    use arrow_flight::encode::FlightDataEncoderBuilder;

    use super::*;

    fn batch() -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter((0..1000).map(|n| (n % 3 > 0).then_some(n))));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|n| n.to_string())));
        RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, false)]).unwrap()
    }

    async fn messages() -> Vec<FlightData> {
        let rows = futures::stream::iter([Ok(batch())]);
        FlightDataEncoderBuilder::new().with_schema(batch().schema()).build(rows).try_collect().await.unwrap()
    }

    async fn read(messages: Vec<FlightData>) -> (Vec<RecordBatch>, Completion) {
        let (rows, completion) = batches(futures::stream::iter(messages.into_iter().map(Ok)).boxed());
        (rows.try_collect().await.unwrap(), completion)
    }

    #[tokio::test]
    async fn a_stream_that_just_stops_is_not_complete() {
        let (rows, completion) = read(messages().await).await;
        assert_eq!((rows, completion.metadata()), (vec![batch()], None));
        let mut complete = messages().await;
        complete.push(end_message(b"told".to_vec()));
        // Nothing that comes after the end counts.
        complete.extend(messages().await);
        let (rows, completion) = read(complete).await;
        assert_eq!((rows, completion.metadata().unwrap().as_ref()), (vec![batch()], b"told".as_slice()));
    }

    #[tokio::test]
    async fn a_copy_holds_on_to_nothing_but_its_own_rows() {
        let (rows, _) = read(messages().await).await;
        let piece = rows[0].slice(100, 10);
        let copy = owned(&piece).unwrap();
        assert_eq!(copy, piece);
        assert!(copy.get_array_memory_size() < 2_000 && piece.get_array_memory_size() > 10_000);
    }
}
