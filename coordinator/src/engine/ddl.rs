//! DDL on databases, connections, stages and file formats. Tables have a room of their own.

use std::collections::BTreeMap;

use stevedore_common::file_format::{FileFormat, FormatKind, OptionValue};
use stevedore_common::location::Location;
use stevedore_common::secret::{Sealed, Secret};
use stevedore_common::{Error, Result};
use stevedore_sql::ast::{
    AlterStage, ConnectionRef, ConnectionSpec, CopyOptions, CreateMode, CreateStage, FileFormatRef,
    LocationRef, Statement,
};
use stevedore_sql::connection::{ConnectionOptions, StorageType};
use stevedore_state::catalog::{self, StageFormat, StageKind, StageSource};
use stevedore_state::command::{Command, StageChange};
use stevedore_state::result::CommandResult;
use stevedore_state::view::ReadView;

use super::tables::TableEdit;
use super::{Engine, Execution, StatementHandle};

/// IF NOT EXISTS, OR REPLACE.
pub(super) fn mode_flags(mode: CreateMode) -> (bool, bool) {
    (mode == CreateMode::IfNotExists, mode == CreateMode::OrReplace)
}

/// The built-in formats are named like their types.
pub(super) fn built_in_format(name: &str) -> Option<FileFormat> {
    FormatKind::parse("FORMAT_NAME", name).ok().map(FileFormat::defaults)
}

impl Engine {
    pub(super) async fn ddl(&self, handle: &StatementHandle, statement: Statement) -> Result<Execution> {
        let command = match statement {
            Statement::CreateDatabase { name, mode } => {
                let (if_not_exists, or_replace) = mode_flags(mode);
                Command::CreateDatabase { name, if_not_exists, or_replace, comment: String::new() }
            }
            Statement::DropDatabase { name, if_exists } => Command::DropDatabase { name, if_exists },
            Statement::DropTable { table, if_exists } => {
                let (database, name) = self.qualify(handle, &table);
                Command::DropTable { database, name, if_exists }
            }
            Statement::DropWarehouse { name, if_exists } => {
                return self.drop_warehouse(handle, &name, if_exists).await;
            }
            Statement::TruncateTable { table } => return self.truncate_table(handle, &table).await,
            Statement::UndropTable { table } => {
                let (database, name) = self.qualify(handle, &table);
                Command::UndropTable { database, name }
            }
            Statement::RenameTable { table, if_exists, to } => {
                return self.rename_table(handle, &table, if_exists, to).await;
            }
            Statement::AlterTableAddColumn { table, if_exists, if_not_exists, column } => {
                return self.add_column(handle, &table, if_exists, if_not_exists, column).await;
            }
            Statement::AlterTableDropColumn { table, if_exists, column } => {
                return self.alter_columns(handle, &table, if_exists, TableEdit::DropColumn(column)).await;
            }
            Statement::AlterTableRenameColumn { table, if_exists, column, to } => {
                let edit = TableEdit::RenameColumn { column, to };
                return self.alter_columns(handle, &table, if_exists, edit).await;
            }
            Statement::AlterTableModifyColumns { table, if_exists, changes } => {
                return self
                    .alter_columns(handle, &table, if_exists, TableEdit::ModifyColumns(changes))
                    .await;
            }
            Statement::AlterTableSetOptions { table, if_exists, options } => {
                return self.set_table_options(handle, &table, if_exists, options).await;
            }
            Statement::CreateConnection { name, mode, options } => {
                let (if_not_exists, or_replace) = mode_flags(mode);
                let secrets = self.seal_all(&format!("connection/{name}"), &options.secrets)?;
                Command::CreateConnection {
                    storage_type: options.storage_type.to_string(),
                    name,
                    params: options.params,
                    secrets,
                    if_not_exists,
                    or_replace,
                }
            }
            Statement::DropConnection { name, if_exists } => Command::DropConnection { name, if_exists },
            Statement::CreateStage(create) => self.create_stage_command(&create).await?,
            Statement::AlterStage(alter) => self.alter_stage_command(&alter).await?,
            Statement::DropStage { name, if_exists } => {
                return self.drop_stage(handle, name, if_exists).await;
            }
            Statement::CreateFileFormat { name, mode, format } => {
                if built_in_format(&name).is_some() {
                    return Err(Error::already_exists(format!("file format '{name}' is built in"))
                        .hint("choose another name"));
                }
                let (if_not_exists, or_replace) = mode_flags(mode);
                Command::CreateFileFormat { name, format: *format, if_not_exists, or_replace }
            }
            Statement::DropFileFormat { name, .. } if built_in_format(&name).is_some() => {
                return Err(Error::invalid(format!(
                    "file format '{name}' is built in and cannot be dropped"
                )));
            }
            Statement::DropFileFormat { name, if_exists } => Command::DropFileFormat { name, if_exists },
            Statement::CreateStream(create) => return self.create_stream(handle, &create).await,
            Statement::DropStream { stream, if_exists } => {
                return self.drop_stream(handle, &stream, if_exists).await;
            }
            Statement::ConsumeStream { stream } => return self.consume_stream(handle, &stream).await,
            other => return self.task_ddl(handle, other).await,
        };
        self.propose_once(handle, command).await?;
        Ok(Execution::nothing())
    }

    fn seal_all(
        &self,
        owner: &str,
        secrets: &BTreeMap<String, Secret<String>>,
    ) -> Result<BTreeMap<String, Sealed>> {
        self.stores.seal_all(owner, secrets)
    }

    fn stage_source(
        &self,
        view: &dyn ReadView,
        stage: &str,
        url: &str,
        spec: Option<&ConnectionRef>,
    ) -> Result<StageSource> {
        let location = Location::parse(url)?;
        location.require_folder()?;
        match spec {
            Some(ConnectionRef::Named { name, storage_type }) => {
                self.stores.require_connection(view, name, *storage_type)?;
                Ok(StageSource::Named(name.clone()))
            }
            Some(ConnectionRef::Inline(options)) => self.inline_source(stage, options),
            None => Ok(StageSource::Inline {
                storage_type: StorageType::of_uri(url)?.to_string(),
                params: BTreeMap::new(),
                secrets: BTreeMap::new(),
            }),
        }
    }

    fn inline_source(&self, stage: &str, options: &ConnectionOptions) -> Result<StageSource> {
        Ok(StageSource::Inline {
            storage_type: options.storage_type.to_string(),
            params: options.params.clone(),
            secrets: self.seal_all(&format!("stage/{stage}"), &options.secrets)?,
        })
    }

    fn stage_format(&self, view: &dyn ReadView, format: &FileFormatRef) -> Result<StageFormat> {
        match format {
            FileFormatRef::Named(name) => {
                self.named_format(view, name)?;
                Ok(StageFormat::Named(name.clone()))
            }
            FileFormatRef::Inline(format) => Ok(StageFormat::Inline(format.clone())),
        }
    }

    /// A format by name, built in or created.
    pub(super) fn named_format(&self, view: &dyn ReadView, name: &str) -> Result<FileFormat> {
        if let Some(created) = catalog::file_format(view, name)? {
            return Ok(created.format);
        }
        built_in_format(name).ok_or_else(|| {
            Error::not_found(format!("file format '{name}' does not exist"))
                .about(name)
                .hint("SHOW FILE FORMATS lists them")
        })
    }

    async fn create_stage_command(&self, create: &CreateStage) -> Result<Command> {
        let view = self.replica.read().await?;
        let (if_not_exists, or_replace) = mode_flags(create.mode);
        let kind = match &create.location {
            None => StageKind::Internal,
            Some(LocationRef::Uri { url, connection }) => StageKind::External {
                url: url.clone(),
                source: self.stage_source(&*view, &create.name, url, connection.as_ref())?,
            },
            Some(other) => return Err(Error::invalid(format!("a stage's URL cannot be {other}"))),
        };
        let kind = match kind {
            StageKind::External { url, source } => {
                // A stage that could never be read is refused now rather than at its first use.
                self.stores.check_source(&*view, &create.name, &url, &source)?;
                StageKind::External { url, source }
            }
            internal => internal,
        };
        let file_format =
            create.file_format.as_ref().map(|format| self.stage_format(&*view, format)).transpose()?;
        Ok(Command::CreateStage {
            name: create.name.clone(),
            kind,
            file_format,
            copy_options: option_pairs(&create.copy_options),
            comment: create.comment.clone().unwrap_or_default(),
            creator: "root".to_owned(),
            if_not_exists,
            or_replace,
        })
    }

    async fn alter_stage_command(&self, alter: &AlterStage) -> Result<Command> {
        let view = self.replica.read().await?;
        let mut changes = Vec::new();
        let stage = catalog::stage(&*view, &alter.name)?;
        let current_url = stage.as_ref().and_then(|stage| match &stage.kind {
            StageKind::External { url, .. } => Some(url.clone()),
            StageKind::Internal => None,
        });
        if stage.is_some() && current_url.is_none() && (alter.url.is_some() || alter.connection.is_some()) {
            return Err(Error::invalid(format!(
                "stage '{}' is internal: it has no URL and no connection",
                alter.name
            )));
        }
        let url = alter.url.clone().or(current_url);
        if let Some(new_url) = &alter.url {
            Location::parse(new_url)?.require_folder()?;
            changes.push(StageChange::SetUrl(new_url.clone()));
        }
        let mut source = stage.as_ref().and_then(|stage| match &stage.kind {
            StageKind::External { source, .. } => Some(source.clone()),
            StageKind::Internal => None,
        });
        if let (Some(connection), Some(url)) = (&alter.connection, &url) {
            let storage_type = StorageType::of_uri(url)?;
            let new_source = match connection {
                ConnectionSpec::Named(name) => {
                    self.stores.require_connection(&*view, name, storage_type)?;
                    StageSource::Named(name.clone())
                }
                ConnectionSpec::Inline(pairs) => {
                    let options = ConnectionOptions::from_pairs(storage_type, pairs.iter().cloned())?;
                    self.inline_source(&alter.name, &options)?
                }
            };
            changes.push(StageChange::SetSource(new_source.clone()));
            source = Some(new_source);
        }
        if let (Some(url), Some(source)) = (&url, &source) {
            self.stores.check_source(&*view, &alter.name, url, source)?;
        }
        if let Some(format) = &alter.file_format {
            changes.push(StageChange::SetFileFormat(self.stage_format(&*view, format)?));
        }
        if let Some(options) = &alter.copy_options {
            changes.push(StageChange::SetCopyOptions(option_pairs(options)));
        }
        if let Some(comment) = &alter.comment {
            changes.push(StageChange::SetComment(comment.clone()));
        }
        if alter.unset_file_format {
            changes.push(StageChange::UnsetFileFormat);
        }
        if alter.unset_comment {
            changes.push(StageChange::UnsetComment);
        }
        Ok(Command::AlterStage { name: alter.name.clone(), if_exists: alter.if_exists, changes })
    }

    async fn drop_stage(&self, handle: &StatementHandle, name: String, if_exists: bool) -> Result<Execution> {
        let result = self.propose_once(handle, Command::DropStage { name, if_exists }).await?;
        if let CommandResult::StageDropped { stage: Some(stage), internal: true } = result {
            // The stage is gone whatever becomes of its files; what is left of them nobody can reach.
            if let Err(error) = self.stores.delete_internal_stage(stage).await {
                tracing::warn!(stage = stage.0, %error, "files of a dropped internal stage are left behind");
            }
        }
        Ok(Execution::nothing())
    }
}

/// COPY_OPTIONS as the state keeps them: one JSON text, so that nothing is lost in between.
fn option_pairs(options: &CopyOptions) -> Vec<(String, OptionValue)> {
    // A struct of options of plain values always serialises.
    let json = serde_json::to_string(options).unwrap_or_default();
    vec![(COPY_OPTIONS_JSON.to_owned(), OptionValue::Text(json))]
}

const COPY_OPTIONS_JSON: &str = "json";

/// The inverse of [`option_pairs`].
pub(super) fn copy_options_of(pairs: &[(String, OptionValue)]) -> Result<CopyOptions> {
    match pairs.iter().find(|(name, _)| name == COPY_OPTIONS_JSON) {
        Some((_, OptionValue::Text(json))) => serde_json::from_str(json)
            .map_err(|e| Error::internal(format!("the copy options of a stage cannot be read: {e}"))),
        _ => Ok(CopyOptions::default()),
    }
}
