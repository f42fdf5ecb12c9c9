//! `hello` for hosts that start nothing but by an HTTP request: answers each with the same line, by `wasi:http/incoming-handler`.
//!
//! VYR doesn't serve HTTP: this is what its peers are measured with.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

const LINE: &[u8] = b"hello from wasm\n";

struct Hello;

wasip2::http::proxy::export!(Hello);

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(_: IncomingRequest, answer: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("it's the first time that it is asked for");
        ResponseOutparam::set(answer, Ok(response));
        let stream = body.write().expect("it's the first time that it is asked for");
        stream.blocking_write_and_flush(LINE).expect("the client is there");
        drop(stream);
        OutgoingBody::finish(body, None).expect("no length was promised");
    }
}

fn main() {}
