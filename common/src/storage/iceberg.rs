//! The `iceberg` crate's storage traits over a [`Store`]: one storage stack serves everything.
//!
//! The traits want to be serialisable; the handles are not, and a secret never is: what is
//! deserialised is an unconnected shell whose every use is an error.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;

use super::{PinnedFile, Store, StoreWriter};

type Result<T> = std::result::Result<T, iceberg::Error>;

/// A `FileIO` over a store. Paths are absolute URIs below the store's root, as [`Store::uri`] makes them.
pub fn file_io(store: &Store) -> FileIO {
    FileIOBuilder::new(Arc::new(StoreFactory { store: Some(store.clone()) })).build()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoreFactory {
    #[serde(skip)]
    store: Option<Store>,
}

#[typetag::serde(name = "stevedore")]
impl StorageFactory for StoreFactory {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(StoreStorage { store: self.store.clone() }))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoreStorage {
    #[serde(skip)]
    store: Option<Store>,
}

fn explain(e: crate::Error) -> iceberg::Error {
    let kind = match e.kind() {
        ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::BadData => iceberg::ErrorKind::DataInvalid,
        ErrorKind::Unsupported => iceberg::ErrorKind::FeatureUnsupported,
        _ => iceberg::ErrorKind::Unexpected,
    };
    let retryable = e.is_retryable();
    iceberg::Error::new(kind, e.to_string()).with_retryable(retryable).with_source(e)
}

impl StoreStorage {
    fn locate(&self, uri: &str) -> Result<(&Store, String)> {
        let store = self.store.as_ref().ok_or_else(|| {
            iceberg::Error::new(
                iceberg::ErrorKind::Unexpected,
                "a storage handle was deserialised, which leaves it unconnected",
            )
        })?;
        let path = store.path_of_uri(uri).map_err(explain)?;
        Ok((store, path))
    }
}

#[async_trait]
#[typetag::serde(name = "stevedore")]
impl Storage for StoreStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        let (store, path) = self.locate(path)?;
        match store.head(&path).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(explain(e)),
        }
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let (store, path) = self.locate(path)?;
        let entry = store.head(&path).await.map_err(explain)?;
        Ok(FileMetadata { size: entry.version.size })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        let (store, path) = self.locate(path)?;
        let file = store.open_current(&path).await.map_err(explain)?;
        file.read_all(u64::MAX).await.map_err(explain)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let (store, path) = self.locate(path)?;
        let file = store.open_current(&path).await.map_err(explain)?;
        Ok(Box::new(StoreRead(file)))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let (store, path) = self.locate(path)?;
        store.put(&path, bytes).await.map_err(explain)
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let (store, path) = self.locate(path)?;
        let writer = store.writer(&path).await.map_err(explain)?;
        Ok(Box::new(StoreWrite(Some(writer))))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (store, path) = self.locate(path)?;
        store.delete(&path).await.map_err(explain)
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        let (store, mut path) = self.locate(path)?;
        if !path.ends_with('/') {
            path.push('/');
        }
        store.delete_folder(&path).await.map_err(explain).map(|_| ())
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        self.locate(path)?;
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        self.locate(path)?;
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

struct StoreRead(PinnedFile);

#[async_trait]
impl FileRead for StoreRead {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.0.read_range(range).await.map_err(explain)
    }
}

struct StoreWrite(Option<StoreWriter>);

fn closed() -> iceberg::Error {
    iceberg::Error::new(iceberg::ErrorKind::Unexpected, "the file is closed already")
}

#[async_trait]
impl FileWrite for StoreWrite {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.0.as_mut().ok_or_else(closed)?.write(bytes).await.map_err(explain)
    }

    async fn close(&mut self) -> Result<()> {
        self.0.take().ok_or_else(closed)?.finish().await.map_err(explain)
    }
}
