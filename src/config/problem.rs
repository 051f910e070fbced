//! What is wrong with a configuration: where, what was expected, what was found.
//!
//! No message ever contains the value of a secret.

use std::fmt;

use super::origin::Origin;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; `None` when it is about no single place.
    pub origin: Option<Origin>,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Problem {
    pub(super) fn at(origin: &Origin, message: impl Into<String>) -> Self {
        Problem { origin: Some(origin.clone()), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin @ Origin::File { column, .. }) => {
                write!(f, "{origin} column {column}: {}", self.message)
            }
            Some(origin) => write!(f, "{origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Everything that is wrong, what is in files in the order of their lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub(super) fn in_order(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match &problem.origin {
            Some(Origin::File { line, column, .. }) => (1, *line, *column),
            Some(Origin::Laravel { line, .. }) => (2, *line, 0),
            _ => (0, 0, 0),
        });
        Problems(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
