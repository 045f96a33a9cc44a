use crate::domain::*;
use std::path::Path;
pub struct Ledger;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct LedgerError;
impl Ledger {
    pub fn open(_: &Path, _: Timestamp) -> Result<Self, LedgerError> {
        todo!()
    }
    pub fn installation(&self) -> InstallationId {
        todo!()
    }
    pub fn intend(&self, _: &Rental) -> Result<(), LedgerError> {
        todo!()
    }
    pub fn rented(
        &self,
        _: &WorkerId,
        _: &InstanceId,
        _: UsdPerHour,
        _: Timestamp,
    ) -> Result<(), LedgerError> {
        todo!()
    }
    pub fn ended(&self, _: &WorkerId, _: &str, _: Timestamp) -> Result<(), LedgerError> {
        todo!()
    }
    pub fn event(&self, _: &WorkerId, _: &str, _: &str, _: Timestamp) -> Result<(), LedgerError> {
        todo!()
    }
    pub fn open_rentals(&self) -> Result<Vec<Rental>, LedgerError> {
        todo!()
    }
}
