//! What the plugin needs when a host is full.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use flannel_testbed::Signal;
use serde_json::{Value, json};

use crate::site::Site;

const ENDPOINTS: usize = 500;
const CROWD: usize = 25;

/// In KiB: 12 MiB, as people run it. A debug build's code alone takes that.
const MOST: u64 = 12 * 1024;

/// Calls the plugin as Docker does.
fn call(socket: &Path, method: &str, body: &Value) -> Value {
    let (mut stream, text) = (UnixStream::connect(socket).unwrap(), body.to_string());
    let head = format!("POST /{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}", text.len());
    stream.write_all(format!("{head}\r\n\r\n{text}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(answer.get("Err").is_none() && answer.get("Error").is_none(), "{method} {body}: {answer}");
    answer
}

#[test]
fn five_hundred_endpoints_fit() {
    let site = Site::boot(&[], &[]).unwrap();
    let lease = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.4.1/22\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    site.lease("subnet", lease).unwrap();
    // Nobody is asked, since no Docker knows of these containers.
    site.end_plugin(Signal::TERM).unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin/flannel-docker");
    assert!(program.exists(), "{} is missing: run ci/build", program.display());
    site.launch_program(&program, &["-docker-socket=", "-v=0"]).unwrap();
    let socket = site.socket();
    let idle = site.plugin().rss_kib().unwrap();
    let pool =
        call(&socket, "IpamDriver.RequestPool", &json!({"AddressSpace": "flannel-local", "Pool": "", "V6": false}));
    let gateway = json!({"RequestAddressType": "com.docker.network.gateway"});
    let request = json!({"PoolID": pool["PoolID"], "Address": "", "Options": gateway});
    let gateway = call(&socket, "IpamDriver.RequestAddress", &request);
    let network = "a".repeat(64);
    let data = json!([{"AddressSpace": "flannel-local", "Pool": pool["Pool"], "Gateway": gateway["Address"]}]);
    let request = json!({"NetworkID": network, "Options": {}, "IPv4Data": data, "IPv6Data": []});
    call(&socket, "NetworkDriver.CreateNetwork", &request);
    let start = |i: usize| {
        let endpoint = format!("{i:012x}{}", "0".repeat(52));
        let request = json!({"PoolID": pool["PoolID"], "Address": "", "Options": null});
        let address = call(&socket, "IpamDriver.RequestAddress", &request);
        let interface = json!({"Address": address["Address"], "AddressIPv6": "", "MacAddress": ""});
        let request = json!({"NetworkID": network, "EndpointID": endpoint, "Interface": interface, "Options": {}});
        call(&socket, "NetworkDriver.CreateEndpoint", &request);
        let request = json!({"NetworkID": network, "EndpointID": endpoint, "SandboxKey": "/x", "Options": {}});
        call(&socket, "NetworkDriver.Join", &request);
    };
    // Many at once share a write of the state.
    std::thread::scope(|scope| {
        for crowd in 0..CROWD {
            let start = &start;
            scope.spawn(move || (crowd..ENDPOINTS).step_by(CROWD).for_each(start));
        }
    });
    let full = site.plugin().rss_kib().unwrap();
    println!("memory: {idle} KiB idle, {full} KiB with {ENDPOINTS} endpoints");
    assert!(full <= MOST, "{full} KiB with {ENDPOINTS} endpoints, and no more than {MOST} are wanted");
}
