//! Stages and the files in them.

use super::{ConnectionSpec, CopyOptions, CreateMode, FileFormatRef, LocationRef};

/// CREATE STAGE.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateStage {
    /// Name.
    pub name: String,
    /// What to do when it exists.
    pub mode: CreateMode,
    /// An external stage's location, always [`LocationRef::Uri`]; `None` is an internal stage.
    pub location: Option<LocationRef>,
    /// FILE_FORMAT.
    pub file_format: Option<FileFormatRef>,
    /// COPY_OPTIONS.
    pub copy_options: CopyOptions,
    /// COMMENT.
    pub comment: Option<String>,
}

/// ALTER STAGE: what is `None` stays.
#[derive(Debug, Clone, PartialEq)]
pub struct AlterStage {
    /// Name.
    pub name: String,
    /// IF EXISTS.
    pub if_exists: bool,
    /// SET URL.
    pub url: Option<String>,
    /// SET CONNECTION.
    pub connection: Option<ConnectionSpec>,
    /// SET FILE_FORMAT.
    pub file_format: Option<FileFormatRef>,
    /// SET COPY_OPTIONS.
    pub copy_options: Option<CopyOptions>,
    /// SET COMMENT.
    pub comment: Option<String>,
    /// UNSET FILE_FORMAT.
    pub unset_file_format: bool,
    /// UNSET COMMENT.
    pub unset_comment: bool,
}

/// LIST and REMOVE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFiles {
    /// A stage, or a URI for LIST.
    pub location: LocationRef,
    /// PATTERN, checked.
    pub pattern: Option<String>,
}

/// PRESIGN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresignFile {
    /// The file.
    pub location: LocationRef,
    /// UPLOAD; else DOWNLOAD.
    pub upload: bool,
    /// EXPIRE, seconds.
    pub expire_seconds: u32,
    /// CONTENT_TYPE of an upload.
    pub content_type: Option<String>,
}

/// PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutFiles {
    /// `fs:///…`, may hold globs.
    pub local: String,
    /// The stage.
    pub location: LocationRef,
    /// AUTO_COMPRESS.
    pub auto_compress: bool,
    /// PARALLEL.
    pub parallel: Option<u32>,
}

/// GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetFiles {
    /// The stage.
    pub location: LocationRef,
    /// `fs:///dir/`.
    pub local: String,
    /// PATTERN, checked.
    pub pattern: Option<String>,
    /// PARALLEL.
    pub parallel: Option<u32>,
}
