//! How a command ends: a word for a person, a number for a script.

use std::process::ExitCode;

use crate::config::Mistakes;
use crate::ledger::LedgerError;

/// Shown below `--help`; docs/OPERATIONS.md has the same.
pub(super) const EXIT_CODES: &str = "Exit codes:
  0  done, and nothing to complain about
  1  mistakes in the configuration, or the answer is no: no such worker, something is left
  2  the command line was not understood
  3  the gateway or a market could not be reached
  4  a limit or a stop mark keeps it from being done";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// The answer is no.
    #[error("{0}")]
    No(String),
    /// A gateway or a market could not be reached.
    #[error("{0}")]
    Unreachable(String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Trouble {
    pub(super) fn code(&self) -> ExitCode {
        match self {
            Trouble::Mistakes(_) | Trouble::No(_) | Trouble::Other(_) => NEGATIVE,
            // A ledger that another process holds is a gateway that did not answer.
            Trouble::Ledger(LedgerError::Locked(_)) | Trouble::Unreachable(_) => UNREACHABLE,
            Trouble::Ledger(_) => NEGATIVE,
        }
        .into()
    }
}

pub(super) const NEGATIVE: u8 = 1;
pub(super) const UNREACHABLE: u8 = 3;
pub(super) const LIMITED: u8 = 4;

/// Ends a command: its own code, or what went wrong in words and as a code.
pub(super) fn end(outcome: Result<ExitCode, Trouble>) -> ExitCode {
    outcome.unwrap_or_else(|trouble| {
        eprintln!("{trouble}");
        trouble.code()
    })
}
