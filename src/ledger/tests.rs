//! The ledger on a real disk.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::domain::{AccountId, EndpointName, GroupName, RentalState};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn state_dir() -> TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn open(dir: &TempDir) -> Ledger {
    Ledger::open(dir.path(), at(1)).expect("open")
}

fn rental(worker: &str, intended_at: u64) -> Rental {
    Rental {
        worker: WorkerId::new(worker),
        endpoint: EndpointName::new("chat"),
        group: GroupName::new("small"),
        state: RentalState::Intended,
        instance: None,
        usd_per_hour: UsdPerHour(0.4),
        intended_at: at(intended_at),
        ended_at: None,
        reason: "requests wait".into(),
    }
}

fn names(rentals: &[Rental]) -> Vec<&str> {
    rentals.iter().map(|one| one.worker.as_str()).collect()
}

fn refusal(dir: &TempDir) -> LedgerError {
    match Ledger::open(dir.path(), at(2)) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn an_intention_survives_a_reopening() {
    let dir = state_dir();
    let wanted = rental("w1", 5);
    open(&dir).intend(&wanted).expect("intend");
    assert_eq!(open(&dir).open_rentals().expect("read"), [wanted]);
}

#[test]
fn an_intention_survives_a_gateway_that_never_closes_its_ledger() {
    let dir = state_dir();
    let killed = open(&dir);
    killed.intend(&rental("w1", 5)).expect("intend");
    // What the disk holds at this moment is what a killed gateway leaves.
    let copy = state_dir();
    for file in ["ledger.sqlite", "ledger.sqlite-wal"] {
        fs::copy(dir.path().join(file), copy.path().join(file)).expect("copy");
    }
    let found = open(&copy).open_rentals().expect("read");
    assert_eq!(names(&found), ["w1"]);
}

#[test]
fn an_installation_keeps_its_identity_and_differs_from_others() {
    let (dir, other) = (state_dir(), state_dir());
    let first = open(&dir).installation();
    assert_eq!(open(&dir).installation(), first);
    assert_ne!(open(&other).installation(), first);
    let id = first.as_str();
    assert_eq!(id.len(), 10);
    assert!(
        id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')),
        "{id}"
    );
}

#[test]
fn a_second_gateway_on_one_directory_is_refused_and_told_why() {
    let dir = state_dir();
    let first = open(&dir);
    let error = refusal(&dir);
    assert!(matches!(error, LedgerError::Locked(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("ledger.lock") && text.contains("another gateway"),
        "{text}"
    );
    drop(first);
    open(&dir);
}

#[test]
fn whose_a_held_ledger_is_can_be_read_beside_its_holder() {
    let dir = state_dir();
    let held = open(&dir);
    let read = installation_of(dir.path()).expect("read");
    assert_eq!(read, held.installation());
    assert!(installation_of(state_dir().path()).is_err());
}

#[test]
fn a_rental_goes_from_intended_through_rented_to_ended() {
    let dir = state_dir();
    let ledger = open(&dir);
    let (worker, instance) = (WorkerId::new("w1"), InstanceId::new("i1"));
    ledger.intend(&rental("w1", 5)).expect("intend");
    ledger
        .rented(&worker, &instance, UsdPerHour(0.3), at(6))
        .expect("rented");
    let open = ledger.open_rentals().expect("read");
    assert_eq!(open[0].state, RentalState::Rented);
    assert_eq!(open[0].instance, Some(instance));
    assert_eq!(open[0].usd_per_hour, UsdPerHour(0.3));

    ledger.ended(&worker, "idle", at(9)).expect("ended");
    ledger.ended(&worker, "again", at(10)).expect("ended twice");
    assert!(ledger.open_rentals().expect("read").is_empty());
    let past = ledger.recent(5).expect("read").remove(0);
    assert_eq!(past.state, RentalState::Ended);
    assert_eq!((past.ended_at, past.reason.as_str()), (Some(at(9)), "idle"));
}

#[test]
fn a_machine_that_appears_after_its_end_is_open_again() {
    let dir = state_dir();
    let ledger = open(&dir);
    let worker = WorkerId::new("w1");
    ledger.intend(&rental("w1", 5)).expect("intend");
    ledger.ended(&worker, "missing", at(6)).expect("ended");
    ledger
        .rented(&worker, &InstanceId::new("i1"), UsdPerHour(0.3), at(7))
        .expect("rented");
    let open = ledger.open_rentals().expect("read");
    assert_eq!((names(&open), open[0].ended_at), (vec!["w1"], None));
}

#[test]
fn an_instance_without_an_intention_is_an_error_and_an_end_without_one_is_not() {
    let dir = state_dir();
    let ledger = open(&dir);
    let worker = WorkerId::new("nobody");
    let rented = ledger.rented(&worker, &InstanceId::new("i"), UsdPerHour(1.0), at(2));
    assert!(matches!(rented, Err(LedgerError::Unknown(_))));
    ledger
        .ended(&worker, "unknown or unwanted", at(3))
        .expect("ended");
    assert!(ledger.recent(5).expect("read").is_empty());
}

#[test]
fn one_rental_cannot_be_intended_twice() {
    let dir = state_dir();
    let ledger = open(&dir);
    ledger.intend(&rental("w1", 5)).expect("intend");
    assert!(ledger.intend(&rental("w1", 6)).is_err());
    // The refused one left nothing behind, not even its event.
    assert_eq!(
        ledger.events_of(&WorkerId::new("w1")).expect("read").len(),
        1
    );
}

#[test]
fn recent_rentals_come_newest_first_and_no_more_than_asked_for() {
    let dir = state_dir();
    let ledger = open(&dir);
    for (worker, intended_at) in [("w1", 10), ("w3", 30), ("w2", 20)] {
        ledger.intend(&rental(worker, intended_at)).expect("intend");
    }
    assert_eq!(names(&ledger.recent(2).expect("read")), ["w3", "w2"]);
    assert_eq!(
        names(&ledger.open_rentals().expect("read")),
        ["w1", "w2", "w3"]
    );
}

#[test]
fn a_workers_history_is_its_own_and_in_order() {
    let dir = state_dir();
    let ledger = open(&dir);
    let (one, other) = (WorkerId::new("w1"), WorkerId::new("w2"));
    ledger.intend(&rental("w1", 5)).expect("intend");
    ledger.event(&one, "ready", "", at(6)).expect("event");
    ledger.event(&other, "ready", "", at(6)).expect("event");
    ledger
        .event(&one, "failed", "exited", at(7))
        .expect("event");
    ledger.ended(&one, "exited", at(8)).expect("ended");
    let history = ledger.events_of(&one).expect("read");
    let states: Vec<&str> = history.iter().map(|event| event.state.as_str()).collect();
    assert_eq!(states, ["intended", "ready", "failed", "ended"]);
    assert_eq!(
        (history[2].at, history[2].reason.as_str()),
        (at(7), "exited")
    );
}

#[test]
fn a_file_that_is_no_database_is_named_in_the_error() {
    let dir = state_dir();
    fs::write(
        dir.path().join("ledger.sqlite"),
        "not a database, just text\n".repeat(100),
    )
    .expect("write");
    let error = refusal(&dir);
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("ledger.sqlite"), "{error}");
}

#[test]
fn a_database_with_overwritten_pages_is_an_error_and_no_panic() {
    let dir = state_dir();
    {
        let ledger = open(&dir);
        for n in 0..200 {
            ledger.intend(&rental(&format!("w{n}"), n)).expect("intend");
        }
    }
    let path = dir.path().join("ledger.sqlite");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open");
    file.seek(SeekFrom::Start(4096)).expect("seek");
    file.write_all(&[0x5a; 5 * 4096]).expect("write");
    drop(file);
    let error = refusal(&dir);
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
}

#[test]
fn a_ledger_of_a_later_version_is_left_alone() {
    let dir = state_dir();
    drop(open(&dir));
    let connection = Connection::open(dir.path().join("ledger.sqlite")).expect("open");
    connection
        .pragma_update(None, "user_version", 99)
        .expect("pragma");
    drop(connection);
    let error = refusal(&dir);
    assert!(
        matches!(error, LedgerError::Newer { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn nobody_else_may_look_into_the_state_directory() {
    let parent = state_dir();
    let dir = parent.path().join("state");
    let ledger = Ledger::open(&dir, at(1)).expect("open");
    ledger.intend(&rental("w1", 5)).expect("intend");
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["ledger.lock", "ledger.sqlite", "ledger.sqlite-wal"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_panic_while_the_ledger_is_held_does_not_close_it() {
    let dir = state_dir();
    let ledger = open(&dir);
    let panicked = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let _held = ledger.lock();
                panic!("on purpose");
            })
            .join()
            .is_err()
    });
    assert!(panicked);
    ledger.intend(&rental("w1", 5)).expect("intend");
}

#[test]
fn a_released_ledger_is_anothers_until_it_is_taken_back() {
    let dir = state_dir();
    let old = open(&dir);
    old.intend(&rental("w1", 5)).expect("intend");
    assert!(matches!(refusal(&dir), LedgerError::Locked(_)));
    old.release();
    assert!(matches!(
        old.intend(&rental("w2", 6)),
        Err(LedgerError::Released(_))
    ));
    let new = open(&dir);
    new.intend(&rental("w3", 7)).expect("intend");
    assert!(matches!(old.retake(at(8)), Err(LedgerError::Locked(_))));
    drop(new);
    old.retake(at(9)).expect("free again");
    assert_eq!(names(&old.open_rentals().expect("read")), ["w1", "w3"]);
    assert!(matches!(refusal(&dir), LedgerError::Locked(_)));
}

#[test]
fn open_rentals_and_their_accounts_can_be_read_beside_the_process_that_holds_the_ledger() {
    let dir = state_dir();
    let ledger = open(&dir);
    ledger.intend(&rental("w1", 5)).expect("intend");
    ledger.intend(&rental("w2", 6)).expect("intend");
    let account = AccountId::new("abc");
    let noted = serde_json::to_value(&account).expect("JSON");
    ledger
        .remember("account", "w2", &noted, at(7))
        .expect("kept");
    ledger
        .ended(&WorkerId::new("w1"), "idle", at(8))
        .expect("ended");
    let beside = open_rentals_of(dir.path()).expect("read");
    assert_eq!(beside.len(), 1);
    assert_eq!(beside[0].worker, WorkerId::new("w2"));
    assert_eq!(beside[0].account, Some(account));
    assert!(beside[0].instance.is_none() && beside[0].is_paid());
}
