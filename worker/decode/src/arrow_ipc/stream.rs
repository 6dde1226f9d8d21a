//! A stream cut into its messages.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::{Bytes, BytesMut};
use stevedore_common::error::{Error, Result};

use super::file::batch;
use super::message::{BatchMessage, Dictionaries, Frame, Kind, damaged, frame, head, parse, schema};

/// Takes a stream apart, from its first byte on.
#[derive(Debug)]
pub struct StreamCutter {
    /// Bytes of the file that have not come.
    to_come: u64,
    limit: u64,
    buffer: BytesMut,
    schema: Option<SchemaRef>,
    dictionaries: Arc<Dictionaries>,
    messages: u64,
    batches: u64,
    rows: u64,
    ended: bool,
}

impl StreamCutter {
    /// For a file of `size` bytes. No message and no dictionaries may take more than `limit` bytes.
    pub fn new(size: u64, limit: u64) -> Self {
        Self {
            to_come: size,
            limit,
            buffer: BytesMut::new(),
            schema: None,
            dictionaries: Arc::default(),
            messages: 0,
            batches: 0,
            rows: 0,
            ended: false,
        }
    }

    /// The schema, once it has come.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    /// Takes the next bytes and adds the batches that are complete. What was found before an error is added
    /// too.
    ///
    /// # Errors
    /// Bad data that names the message.
    pub fn push(&mut self, bytes: &[u8], batches: &mut Vec<BatchMessage>) -> Result<()> {
        self.to_come = self.to_come.saturating_sub(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        while !self.ended && self.next_message(batches)? {}
        if self.ended && !self.buffer.is_empty() {
            return Err(Error::bad_data("bytes follow the end of the Arrow stream"));
        }
        Ok(())
    }

    /// Takes the end of the file.
    ///
    /// # Errors
    /// Bad data where the file ends within a message, or has none.
    pub fn finish(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            return Err(Error::bad_data(format!(
                "the Arrow stream is cut off within message {}",
                self.messages + 1
            )));
        }
        if self.schema.is_none() {
            return Err(Error::bad_data("not an Arrow stream: it has no schema"));
        }
        Ok(())
    }

    /// Takes the next message from the buffer, if it is there.
    fn next_message(&mut self, batches: &mut Vec<BatchMessage>) -> Result<bool> {
        let part = format!("message {} of the Arrow stream", self.messages + 1);
        if self.messages == 0 && self.buffer.starts_with(b"ARROW1") {
            return Err(Error::bad_data("not an Arrow stream but an Arrow file").hint("it is TYPE = ARROW"));
        }
        let (start, metadata) = match frame(&self.buffer) {
            Some(Frame::Message { frame, metadata }) => (frame, metadata),
            Some(Frame::End(length)) => {
                self.ended = true;
                let _ = self.buffer.split_to(length);
                return Ok(false);
            }
            Some(Frame::More) => return Ok(false),
            None if self.messages == 0 => {
                return Err(Error::bad_data("not an Arrow stream: it does not begin with a message"));
            }
            None => return Err(damaged(&part, "no message begins where it should")),
        };
        let there = self.buffer.len() as u64 + self.to_come;
        let claims = |bytes: u64| {
            if bytes > there && self.messages == 0 {
                return Err(Error::bad_data("not an Arrow stream: it does not begin with a whole message"));
            }
            if bytes > there {
                return Err(damaged(&part, format!("it claims {bytes} bytes, and {there} are left")));
            }
            Ok(())
        };
        claims((start + metadata) as u64)?;
        let Some(head_bytes) = self.buffer.get(start..start + metadata) else {
            self.expect(start + metadata);
            return Ok(false);
        };
        let head = head(head_bytes, &part)?;
        let whole = head.body.saturating_add((start + metadata) as u64);
        claims(whole)?;
        if head.body > self.limit {
            return Err(Error::exhausted(format!(
                "{part} has {} bytes; a quarter of the worker's memory_budget, {}, is the most",
                head.body, self.limit
            ))
            .hint("write the stream in smaller record batches"));
        }
        if (self.buffer.len() as u64) < whole {
            self.expect(whole as usize);
            return Ok(false);
        }
        let bytes = self.buffer.split_to(whole as usize).freeze();
        let (metadata, body) = (bytes.slice(start..start + metadata), bytes.slice(start + metadata..));
        self.take(head.kind, metadata, body, whole, &part, batches)?;
        self.messages += 1;
        Ok(true)
    }

    /// Makes room for a message once, rather than by doubling.
    fn expect(&mut self, length: usize) {
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
    }

    fn take(
        &mut self,
        kind: Kind,
        metadata: Bytes,
        body: Bytes,
        input_bytes: u64,
        part: &str,
        batches: &mut Vec<BatchMessage>,
    ) -> Result<()> {
        match (kind, &self.schema) {
            (Kind::Schema, None) => {
                let message = parse(&metadata, part)?;
                let header = message.header_as_schema().ok_or_else(|| damaged(part, "it has no schema"))?;
                self.schema = Some(schema(header)?);
            }
            (Kind::Schema, Some(_)) => return Err(damaged(part, "a second schema")),
            (_, None) => return Err(damaged(part, "it comes before the schema")),
            (Kind::Dictionary, Some(schema)) => {
                let dictionaries = Arc::make_mut(&mut self.dictionaries);
                dictionaries.add(schema, &metadata, body, self.limit, part)?;
            }
            (Kind::Batch(rows), Some(_)) => {
                self.batches += 1;
                batches.push(BatchMessage {
                    number: self.batches,
                    metadata,
                    body,
                    dictionaries: Arc::clone(&self.dictionaries),
                    rows,
                    first_row: self.rows,
                    input_bytes,
                });
                self.rows =
                    self.rows.checked_add(rows).ok_or_else(|| damaged(&batch(self.batches), "its rows"))?;
            }
        }
        Ok(())
    }
}
