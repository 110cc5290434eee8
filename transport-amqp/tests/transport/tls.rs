//! Encrypted connections, with certificates on both sides.
#![cfg(feature = "tls")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{event, listen, soon, transports, unique};
use lightbus_core::ErrorKind;
use lightbus_test_brokers::RabbitServer;
use serde_json::{Value, json};

/// An authority, and a certificate that it has signed for the server and one for the client.
fn certificates(dir: &Path) {
    let run = |arguments: &[&str]| {
        let output = Command::new("openssl").current_dir(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let key = ["-newkey", "rsa:2048", "-nodes"];
    let mut authority = vec!["req", "-x509", "-days", "2", "-subj", "/CN=authority"];
    authority.extend(key);
    authority.extend(["-keyout", "ca.key", "-out", "ca.crt"]);
    run(&authority);
    for name in ["server", "client"] {
        let (file_key, csr, crt) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let mut request = vec!["req", "-subj", &subject];
        request.extend(key);
        request.extend(["-keyout", &file_key, "-out", &csr]);
        run(&request);
        run(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "names",
            "-out",
            &crt,
        ]);
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_on_both_sides() {
    let dir = std::env::temp_dir().join(unique("lightbus-amqp-tls"));
    std::fs::create_dir_all(&dir).unwrap();
    let dir = Folder(dir);
    certificates(&dir.0);
    let file = |name: &str| dir.0.join(name).display().to_string();
    let port = lightbus_test_brokers::free_port();
    let config = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n",
        file("ca.crt"),
        file("server.crt"),
        file("server.key"),
    );
    let Some(_server) = RabbitServer::start_with(&config).await else { return };
    let process = |tls: Value| {
        let url = format!("amqps://guest:guest@127.0.0.1:{port}/%2f");
        transports(&json!({"url": url, "tls": tls, "connect_timeout": 3}), json!({}))
    };
    let whole = process(json!({
        "ca_file": file("ca.crt"), "cert_file": file("client.crt"), "key_file": file("client.key"),
    }));
    let api = unique("orders");
    let mut events = soon(whole.event.listen(listen(&api, "one"))).await.unwrap();
    soon(whole.event.send(&[event("encrypted", &api)])).await.unwrap();
    assert_eq!(&*soon(events.next()).await.unwrap().unwrap().message.id, "encrypted");

    let stranger = process(json!({"ca_file": file("ca.crt")}));
    let error = soon(stranger.event.open()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "without a certificate: {error:?}");
    let mistrusting =
        process(json!({"cert_file": file("client.crt"), "key_file": file("client.key")}));
    let error = soon(mistrusting.event.open()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "of an unknown authority: {error:?}");
}
