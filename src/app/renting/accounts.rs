//! Rentals of an account that cannot be asked: nobody believes them gone, whatever others' listings say.

use super::*;

#[tokio::test]
async fn a_restart_with_another_accounts_key_believes_nothing_gone_and_rents_nothing() {
    let (dir, market) = stage(31);
    market.with(|world| world.account = Some("first"));
    let both = [endpoint("chat", 2)];
    let mut gateway = Gateway::start(dir.path(), &market, "", &both);
    gateway.has_ready(2).await;
    gateway.kill();
    market.with(|world| {
        world.account = Some("second");
        world.faults.show = Show::Nothing;
    });
    let gateway = Gateway::start(dir.path(), &market, "", &both);
    wait_until("it says why it waits", || {
        let paused = gateway.paused();
        paused.iter().any(|why| why.contains("not configured"))
    })
    .await;
    // Far longer than any listing's doubt would last.
    tokio::time::sleep(INTERVAL * 60).await;
    assert_eq!(gateway.ledger.open_rentals().expect("read").len(), 2);
    assert_eq!(
        (gateway.endpoint().workers().len(), market.creates()),
        (2, 2)
    );
    // The account's new key shows them.
    market.with(|world| world.faults.show = Show::Everything);
    wait_until("both agree", || gateway.paused().is_empty()).await;
    gateway.has_ready(2).await;
    assert_eq!(market.creates(), 2);
}

#[tokio::test]
async fn an_account_that_refuses_its_key_pauses_its_groups_and_ends_nothing() {
    let (dir, market) = stage(32);
    market.with(|world| world.account = Some("first"));
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 2)]);
    gateway.has_ready(2).await;
    market.with(|world| world.faults.silent = true);
    wait_until("it says why it waits", || {
        let paused = gateway.paused();
        let why = "the account of chat/g cannot be listed";
        paused.iter().any(|said| said == why)
    })
    .await;
    tokio::time::sleep(INTERVAL * 60).await;
    assert_eq!((gateway.ready(), market.creates()), (2, 2));
    market.with(|world| world.faults.silent = false);
    wait_until("it answers again", || gateway.paused().is_empty()).await;
    assert_eq!((gateway.ready(), market.creates()), (2, 2));
}
