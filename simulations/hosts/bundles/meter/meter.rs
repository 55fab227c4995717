//! Says which version it is to whoever connects. Built by `run`, for two revisions.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpListener,
    process::exit,
};

fn main() {
    let settings = env::args().nth(1).expect("meter SETTINGS");
    let text = fs::read_to_string(&settings).expect("settings");
    let port = text.strip_prefix("port ").and_then(|port| port.trim().parse::<u16>().ok());
    let Some(port) = port else {
        eprintln!("{settings}: one line with a port is wanted");
        exit(1)
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    for stream in listener.incoming().flatten() {
        let text = concat!("HTTP/1.0 200 OK\r\n\r\nmeter ", env!("METER_VERSION"), "\n");
        // Else the answer may be lost with what was not read.
        (&stream).read(&mut [0; 1024]).ok();
        (&stream).write_all(text.as_bytes()).ok();
    }
}
