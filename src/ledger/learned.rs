//! What was learned and should survive a restart: host reputations, speeds, refusals. A value is whatever JSON its
//! owner makes of it.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use super::rows::millis;
use super::{Ledger, LedgerError};
use crate::domain::Timestamp;

impl Ledger {
    /// Keeps `value` in place of what was kept under this kind and key before.
    pub fn remember(
        &self,
        kind: &str,
        key: &str,
        value: &Value,
        at: Timestamp,
    ) -> Result<(), LedgerError> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO learned (kind, key, value, at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, at = excluded.at",
                params![kind, key, value.to_string(), millis(at)],
            )?;
            Ok(())
        })
    }

    /// All that is kept of a kind, by key. A value that cannot be read any more is left out: it is learned again.
    pub fn recall(&self, kind: &str) -> Result<Vec<(String, Value)>, LedgerError> {
        let kept: Vec<(String, String)> = self.read(|connection| {
            connection
                .prepare("SELECT key, value FROM learned WHERE kind = ?1 ORDER BY key")?
                .query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let readable =
            |(key, text): (String, String)| Some((key, serde_json::from_str(&text).ok()?));
        Ok(kept.into_iter().filter_map(readable).collect())
    }

    /// What is kept under one key; `None` also where it cannot be read any more.
    pub fn recall_one(&self, kind: &str, key: &str) -> Result<Option<Value>, LedgerError> {
        let kept: Option<String> = self.read(|connection| {
            connection
                .query_row(
                    "SELECT value FROM learned WHERE kind = ?1 AND key = ?2",
                    [kind, key],
                    |row| row.get(0),
                )
                .optional()
        })?;
        Ok(kept.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Drops what of a kind was last remembered before `at`; returns how many.
    pub fn forget_older(&self, kind: &str, at: Timestamp) -> Result<usize, LedgerError> {
        self.write(|tx| {
            tx.execute(
                "DELETE FROM learned WHERE kind = ?1 AND at < ?2",
                params![kind, millis(at)],
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use serde_json::json;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn keys(ledger: &Ledger, kind: &str) -> Vec<String> {
        let kept = ledger.recall(kind).expect("recall");
        kept.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn what_was_learned_last_is_known_after_a_restart() {
        let dir = tempfile::tempdir().expect("directory");
        {
            let ledger = Ledger::open(dir.path(), at(1)).expect("open");
            let remember = |key, value| ledger.remember("host", key, &value, at(2));
            remember("7/12", json!({"failures": 1})).expect("kept");
            remember("7/12", json!({"failures": 2})).expect("kept");
            remember("3/1", json!(0.5)).expect("kept");
            ledger
                .remember("speed", "7/12", &json!(90), at(2))
                .expect("kept");
        }
        let ledger = Ledger::open(dir.path(), at(3)).expect("open");
        assert_eq!(
            ledger.recall("host").expect("recall"),
            [
                ("3/1".to_owned(), json!(0.5)),
                ("7/12".to_owned(), json!({"failures": 2}))
            ]
        );
        assert_eq!(keys(&ledger, "speed"), ["7/12"]);
        assert!(keys(&ledger, "nothing").is_empty());
    }

    #[test]
    fn what_is_old_can_be_forgotten() {
        let dir = tempfile::tempdir().expect("directory");
        let ledger = Ledger::open(dir.path(), at(1)).expect("open");
        for (key, time) in [("old", 10), ("new", 20)] {
            ledger
                .remember("offer", key, &json!(true), at(time))
                .expect("kept");
        }
        assert_eq!(ledger.forget_older("offer", at(20)).expect("forgot"), 1);
        assert_eq!(keys(&ledger, "offer"), ["new"]);
    }

    #[test]
    fn a_value_that_became_unreadable_is_as_if_never_learned() {
        let dir = tempfile::tempdir().expect("directory");
        let ledger = Ledger::open(dir.path(), at(1)).expect("open");
        for key in ["broken", "whole"] {
            ledger
                .remember("host", key, &json!(1), at(2))
                .expect("kept");
        }
        Connection::open(dir.path().join("ledger.sqlite"))
            .and_then(|other| {
                other.execute("UPDATE learned SET value = '{' WHERE key = 'broken'", [])
            })
            .expect("broken");
        assert_eq!(keys(&ledger, "host"), ["whole"]);
    }

    #[test]
    fn a_ledger_of_the_first_schema_is_brought_up_to_date() {
        let dir = tempfile::tempdir().expect("directory");
        Connection::open(dir.path().join("ledger.sqlite"))
            .and_then(|old| {
                old.execute_batch(crate::ledger::schema::MIGRATIONS[0])?;
                old.pragma_update(None, "user_version", 1)
            })
            .expect("as it was");
        let ledger = Ledger::open(dir.path(), at(2)).expect("open");
        ledger
            .remember("host", "a", &json!(1), at(3))
            .expect("kept");
        assert_eq!(keys(&ledger, "host"), ["a"]);
    }
}
