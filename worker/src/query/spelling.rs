//! How result columns are spelt.
//!
//! Relations are planned with column names in lower case, since identifiers match in any case. A result
//! column that is just a column of a relation is spelt as the table or file has it; the others as the
//! statement has them.

use std::collections::HashMap;
use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::sql::sqlparser::ast::{ObjectNamePart, Statement, TableFactor, Visit, Visitor};

/// The spellings of the columns of a query's relations.
#[derive(Debug, Default)]
pub(crate) struct Spelling {
    /// By the name that a relation has in the statement, then by the planned name.
    relations: HashMap<String, HashMap<String, String>>,
    /// For columns that come through a subquery: the first relation that has them.
    any: HashMap<String, String>,
}

/// Names to plan with, in the order of the columns: in lower case; where that is taken by an earlier
/// column, something that nobody can write.
pub(crate) fn planned_names<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut planned: Vec<String> = Vec::new();
    for (index, name) in names.enumerate() {
        let folded = name.to_lowercase();
        planned.push(if planned.contains(&folded) { format!("{name}\u{0}{index}") } else { folded });
    }
    planned
}

impl Spelling {
    /// Adds a relation: planned names and spellings.
    pub(crate) fn add(&mut self, relation: &str, columns: Vec<(String, String)>) {
        for (planned, spelt) in &columns {
            self.any.entry(planned.clone()).or_insert_with(|| spelt.clone());
        }
        self.relations.insert(relation.to_owned(), columns.into_iter().collect());
    }

    /// Learns the aliases of the relations.
    pub(crate) fn aliases(&mut self, statement: &Statement) {
        let _ = statement.visit(self);
    }

    /// The schema of the result as it is spelt.
    pub(crate) fn output(&self, schema: &DFSchema) -> Schema {
        let fields = schema
            .iter()
            .map(|(qualifier, field)| {
                let Some(qualifier) = qualifier else { return field.as_ref().clone() };
                let spelt =
                    self.relations.get(qualifier.table()).unwrap_or(&self.any).get(field.name()).cloned();
                match spelt {
                    Some(name) => field.as_ref().clone().with_name(name),
                    None => field.as_ref().clone(),
                }
            })
            .collect::<Vec<_>>();
        Schema::new(fields)
    }
}

impl Visitor for Spelling {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: Some(alias), .. } = factor
            && let Some(ObjectNamePart::Identifier(relation)) = name.0.last()
            && let Some(columns) = self.relations.get(&relation.value)
        {
            let columns = columns.clone();
            self.relations.insert(alias.name.value.clone(), columns);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_only_in_case_stay_apart() {
        let names = planned_names(["Id", "id", "NAME"].into_iter());
        assert_eq!(names[0], "id");
        assert_eq!(names[2], "name");
        assert!(names[1].starts_with("id\u{0}"));
    }
}
