//! What the scalar functions of the families beside this file have in common.
//!
//! Owns: the reading of arguments (each is cast to the kind that its function asks for, so that a VARIANT
//! or a number may stand where text is wanted), NULL in NULL out, constants that are not repeated for
//! every row, errors that name the function and the value. Comes in: a table of definitions and the
//! settings of a statement. Goes out: functions to register. A row that is wrong fails the batch, and
//! whoever loads rows finds it by halving; a `try_` function gives NULL there.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use stevedore_common::types::SqlType;
use stevedore_common::{Error, Result};
use stevedore_decode::cast::check;
use stevedore_decode::parse::datetime::Zone;
use stevedore_decode::spec::CastOptions;

use super::call::{Argument, Call};
use super::kernel;
use crate::query::error::to_datafusion;
use crate::query::normalize::natural_field;

/// What an argument is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it stands.
    Any,
    /// VARCHAR.
    Text,
    /// BINARY as it stands, all else as the bytes of its text.
    Bytes,
    /// BIGINT.
    Int,
    /// DOUBLE.
    Float,
    /// DATE as it stands, all else as TIMESTAMP.
    Moment,
    /// VARIANT; text is parsed as JSON.
    Variant,
    /// BIGINT where it is an integer, else VARCHAR.
    Key,
}

impl Kind {
    /// What a value of some type is cast to; `None` where it stays as it is.
    fn target(self, from: &SqlType) -> Option<SqlType> {
        Some(match self {
            Self::Any => return None,
            Self::Bytes if *from == SqlType::Binary => SqlType::Binary,
            Self::Key if from.is_integer() => SqlType::Int64,
            Self::Text | Self::Bytes | Self::Key => SqlType::String,
            Self::Int => SqlType::Int64,
            Self::Float => SqlType::Float64,
            Self::Moment if *from == SqlType::Date => SqlType::Date,
            Self::Moment => SqlType::Timestamp,
            Self::Variant => SqlType::Variant,
        })
    }
}

type Returns = Arc<dyn Fn(&Inputs<'_>) -> Result<SqlType> + Send + Sync>;
type Body = Arc<dyn Fn(&Call<'_>) -> Result<ArrayRef> + Send + Sync>;

/// A function.
#[derive(Clone)]
pub(super) struct Definition {
    name: &'static str,
    aliases: &'static [&'static str],
    kinds: &'static [Kind],
    /// How many of the last arguments may be left out.
    optional: usize,
    /// The last kind may stand any number of times more.
    repeats: bool,
    /// The body sees NULL arguments; else one makes the result NULL.
    sees_nulls: bool,
    /// A row that is wrong is NULL.
    lenient: bool,
    returns: Returns,
    body: Body,
}

impl Definition {
    pub(super) fn new(
        name: &'static str,
        kinds: &'static [Kind],
        returns: impl Fn(&Inputs<'_>) -> Result<SqlType> + Send + Sync + 'static,
        body: impl Fn(&Call<'_>) -> Result<ArrayRef> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            aliases: &[],
            kinds,
            optional: 0,
            repeats: false,
            sees_nulls: false,
            lenient: false,
            returns: Arc::new(returns),
            body: Arc::new(body),
        }
    }

    pub(super) fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    pub(super) fn optional(mut self, count: usize) -> Self {
        self.optional = count;
        self
    }

    pub(super) fn repeats(mut self) -> Self {
        self.repeats = true;
        self
    }

    pub(super) fn sees_nulls(mut self) -> Self {
        self.sees_nulls = true;
        self
    }

    /// The same under another name, NULL where this one fails.
    pub(super) fn lenient(&self, name: &'static str, aliases: &'static [&'static str]) -> Self {
        Self { name, aliases, lenient: true, ..self.clone() }
    }

    /// The function under each of its names, so that columns and messages have the one that was written.
    pub(super) fn functions(&self, options: &CastOptions) -> Vec<ScalarUDF> {
        std::iter::once(self.name)
            .chain(self.aliases.iter().copied())
            .map(|name| {
                ScalarUDF::new_from_impl(Function {
                    definition: Self { name, ..self.clone() },
                    options: options.clone(),
                    signature: Signature::user_defined(Volatility::Immutable),
                })
            })
            .collect()
    }

    fn kind(&self, index: usize) -> Kind {
        self.kinds.get(index).or(self.kinds.last()).copied().unwrap_or(Kind::Any)
    }

    fn check_count(&self, count: usize) -> Result<()> {
        let (least, most) = (self.kinds.len() - self.optional, self.kinds.len());
        if count >= least && (count <= most || self.repeats) {
            return Ok(());
        }
        let wanted = match (least, most) {
            _ if self.repeats => format!("{least} or more arguments"),
            (1, 1) => "1 argument".to_owned(),
            (least, most) if least == most => format!("{most} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Err(Error::invalid(format!("{} takes {wanted}, not {count}", self.name)))
    }
}

/// The arguments while a query is planned.
pub(super) struct Inputs<'a> {
    name: &'a str,
    types: Vec<SqlType>,
    fields: &'a [FieldRef],
    literals: &'a [Option<&'a ScalarValue>],
}

impl Inputs<'_> {
    pub(super) fn ty(&self, index: usize) -> &SqlType {
        self.types.get(index).unwrap_or(&SqlType::String)
    }

    pub(super) fn name(&self) -> &str {
        self.name
    }

    pub(super) fn count(&self) -> usize {
        self.types.len()
    }

    pub(super) fn has(&self, index: usize) -> bool {
        index < self.types.len()
    }

    /// Whether an argument is the literal NULL.
    pub(super) fn is_null(&self, index: usize) -> bool {
        self.fields.get(index).is_some_and(|field| *field.data_type() == DataType::Null)
    }

    pub(super) fn is_date(&self, index: usize) -> bool {
        *self.ty(index) == SqlType::Date
    }

    /// DATE for a DATE, TIMESTAMP for all else.
    pub(super) fn moment(&self, index: usize) -> SqlType {
        if self.is_date(index) { SqlType::Date } else { SqlType::Timestamp }
    }

    /// The text of an argument that must be a literal.
    pub(super) fn literal(&self, index: usize, what: &str) -> Result<&str> {
        let literal = self.literals.get(index).copied().flatten();
        literal
            .and_then(|value| value.try_as_str().flatten())
            .ok_or_else(|| Error::invalid(format!("the {what} of {} must be a text literal", self.name)))
    }
}

struct Function {
    definition: Definition,
    options: CastOptions,
    signature: Signature,
}

impl Function {
    fn types(&self, fields: &[FieldRef]) -> Result<Vec<SqlType>> {
        fields
            .iter()
            .map(|field| SqlType::from_arrow_field(&natural_field(field)))
            .collect::<Result<_>>()
            .map_err(|e| e.context(self.definition.name))
    }

    fn returned(&self, fields: &[FieldRef], literals: &[Option<&ScalarValue>]) -> Result<SqlType> {
        self.definition.check_count(fields.len())?;
        let name = self.definition.name;
        let inputs = Inputs { name, types: self.types(fields)?, fields, literals };
        let returned = (self.definition.returns)(&inputs)?;
        for (index, from) in inputs.types.iter().enumerate().filter(|(index, _)| !inputs.is_null(*index)) {
            if let Some(to) = self.definition.kind(index).target(from) {
                check(from, &to).map_err(|e| e.context(name))?;
            }
        }
        Ok(returned)
    }

    fn argument(&self, index: usize, value: &ColumnarValue, field: &FieldRef) -> Result<Argument> {
        let (array, constant) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => {
                (value.to_array().map_err(|e| crate::query::error::from_datafusion(&e))?, true)
            }
        };
        let field = kernel::typed_field(field, &array);
        let from = SqlType::from_arrow_field(&natural_field(&field))?;
        let argument = Argument { array, field, constant };
        match self.definition.kind(index).target(&from) {
            Some(to) => argument.cast(self.definition.name, &to, &self.options, self.definition.lenient),
            None => Ok(argument),
        }
    }

    fn evaluate(&self, args: &ScalarFunctionArgs) -> Result<(ArrayRef, bool)> {
        let returns = SqlType::from_arrow_field(&args.return_field)?;
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arguments = args
            .args
            .iter()
            .zip(&args.arg_fields)
            .enumerate()
            .map(|(index, (value, field))| self.argument(index, value, field))
            .collect::<Result<Vec<_>>>()?;
        let nothing = |argument: &Argument| argument.constant && argument.array.logical_null_count() > 0;
        if !self.definition.sees_nulls && arguments.iter().any(nothing) {
            return Ok((new_null_array(args.return_field.data_type(), rows), constant));
        }
        let call = Call {
            name: self.definition.name,
            zone: Zone::parse(&self.options.timezone)?,
            options: &self.options,
            returns: &returns,
            rows,
            arguments,
            sees_nulls: self.definition.sees_nulls,
            lenient: self.definition.lenient,
        };
        let values = (self.definition.body)(&call)?;
        if values.data_type() != args.return_field.data_type() {
            let (found, wanted) = (values.data_type(), args.return_field.data_type());
            return Err(Error::internal(format!("{} gave {found}, not {wanted}", self.definition.name)));
        }
        Ok((values, constant))
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("name", &self.definition.name).finish_non_exhaustive()
    }
}

// A name stands for one definition; what else tells two functions apart are the settings.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name && self.options == other.options
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
        self.options.timezone.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Arguments are cast where they are read.
    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        Ok(types.to_vec())
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        internal_err!("{} has its type from its arguments", self.definition.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let ty = self.returned(args.arg_fields, args.scalar_arguments).map_err(to_datafusion)?;
        Ok(Arc::new(ty.to_field(self.definition.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let (values, constant) = self.evaluate(&args).map_err(to_datafusion)?;
        if constant {
            return Ok(ColumnarValue::Scalar(kernel::scalar_of(&values)?));
        }
        Ok(ColumnarValue::Array(values))
    }
}
