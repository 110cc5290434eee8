//! Several processes in one test.

use lightbus::{ErrorKind, testing::TestBus};

#[lightbus::api(name = "bank")]
pub trait Bank {
    async fn balance(&self) -> u64;
}

struct Till;

impl Bank for Till {
    async fn balance(&self) -> u64 {
        7
    }
}

#[tokio::test]
async fn with_time_paused_a_process_calls_what_another_serves() {
    let test = TestBus::start().await.unwrap();
    let caller = test.process("web").await.unwrap();
    // Read when nothing was there, at the same moment.
    assert!(caller.remote_apis().await.unwrap().is_empty());
    let server = test.process("bank").await.unwrap();
    server.serve(BankApi(Till)).await.unwrap();
    assert_eq!(BankClient::new(&caller).balance().await.unwrap(), 7);
}

#[tokio::test]
async fn a_process_lives_as_long_as_the_test_and_can_be_killed() {
    let test = TestBus::start().await.unwrap();
    test.process("bank").await.unwrap().serve(BankApi(Till)).await.unwrap();
    assert_eq!(BankClient::new(&test).balance().await.unwrap(), 7);

    let second = test.process("bank").await.unwrap();
    second.serve(BankApi(Till)).await.unwrap();
    test.kill(second);
    assert_eq!(BankClient::new(&test).balance().await.unwrap(), 7);
}

#[tokio::test]
async fn what_a_killed_process_served_is_not_answered() {
    let test = TestBus::builder().allow_unmocked().start().await.unwrap();
    let bank = test.process("bank").await.unwrap();
    bank.serve(BankApi(Till)).await.unwrap();
    assert_eq!(BankClient::new(&test).balance().await.unwrap(), 7);
    test.kill(bank);
    let error = BankClient::new(&test).balance().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}
