//! Runs of small guests that are written as text.

use std::time::{Duration, Instant};

use super::*;
use crate::error::ErrorKind;

fn engine() -> Engine {
    Engine::new(&EngineOptions::default()).unwrap()
}

fn prepare_on(engine: &Engine, wat: &str) -> Result<Prepared, StartError> {
    let wasm = wat::parse_str(wat).unwrap();
    engine.prepare(&engine.compile_in_memory("test", &wasm)?)
}

async fn run_on(engine: &Engine, wat: &str, spec: RunSpec) -> Result<Execution, StartError> {
    engine.run(&prepare_on(engine, wat)?, spec, &CancellationToken::new()).await
}

async fn run(wat: &str, spec: RunSpec) -> Result<Execution, StartError> {
    run_on(&engine(), wat, spec).await
}

const EXIT: &str = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
const LOOP: &str = r#"(module (func (export "_start") (loop $l (br $l))))"#;
/// Reads one byte from standard input.
const READ: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00")
    (func (export "_start") (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
/// Sleeps an hour by poll_oneoff on the monotonic clock.
const SLEEP: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;
/// Writes 4 KiB to standard output for ever, exits with 3 on an error.
const WRITE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\40\00\00\00\00\10\00\00")
    (func (export "_start")
        (loop $l (br_if $l (i32.eqz (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))))"#;

/// A component whose `wasi:cli/run` is the core function of `body`: it returns 0 for success, 1 for failure.
fn component(body: &str) -> String {
    format!(
        r#"(component
            (core module $m {body})
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $run-instance (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#
    )
}

fn exited(execution: &Execution) -> i32 {
    match execution.outcome {
        Outcome::Exited(code) => code,
        ref other => panic!("{other}"),
    }
}

fn trapped(execution: Execution) -> Trapped {
    match execution.outcome {
        Outcome::Trapped(trap) => trap,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn exit_codes_pass_through() {
    for code in [0, 1, 3, 125] {
        let wat = format!(
            r#"(module {EXIT} (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
        );
        assert_eq!(exited(&run(&wat, RunSpec::default()).await.unwrap()), code);
    }
    assert_eq!(exited(&run(r#"(module (func (export "_start")))"#, RunSpec::default()).await.unwrap()), 0);
    for code in [0, 1] {
        let wat = component(&format!(r#"(func (export "run") (result i32) (i32.const {code}))"#));
        assert_eq!(exited(&run(&wat, RunSpec::default()).await.unwrap()), code);
    }
}

#[tokio::test]
async fn arguments_environment_and_streams_reach_the_guest() {
    // Exits with the number of arguments and of environment entries, after copying 3 bytes of input to output.
    let wat = format!(
        r#"(module {EXIT}
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\03\00\00\00")
        (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
            (drop (call $args (i32.const 40) (i32.const 48)))
            (drop (call $env (i32.const 44) (i32.const 48)))
            (call $exit (i32.add (i32.mul (i32.load (i32.const 40)) (i32.const 10)) (i32.load (i32.const 44))))))"#
    );
    let (stdout, captured) = Output::capture(100);
    let spec = RunSpec {
        argv0: "guest".into(),
        args: vec!["a".into(), "b".into()],
        env: vec![("K".into(), "v".into())],
        stdin: Input::bytes("hello"),
        stdout,
        ..RunSpec::default()
    };
    let execution = run(&wat, spec).await.unwrap();
    assert_eq!(exited(&execution), 31);
    assert_eq!(captured.contents(), "hel");
    assert_eq!(execution.peak_memory_bytes, 65536);
}

#[tokio::test]
async fn traps_have_a_kind_and_the_names_of_frames() {
    let trap = trapped(
        run(r#"(module (func $inner unreachable) (func $outer (export "_start") (call $inner)))"#, RunSpec::default())
            .await
            .unwrap(),
    );
    assert_eq!(trap.kind, "unreachable");
    assert_eq!(trap.message, "wasm `unreachable` instruction executed");
    let backtrace = trap.backtrace.unwrap();
    let (inner, outer) = (backtrace.find("inner").unwrap(), backtrace.find("outer").unwrap());
    assert!(inner < outer, "{backtrace}");
    for (body, kind) in [
        ("(drop (i32.load (i32.const 65536)))", "memory_out_of_bounds"),
        ("(call $start)", "stack_overflow"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer_divide_by_zero"),
        ("(call_indirect (i32.const 0))", "indirect_call_to_null"),
        ("(throw $tag)", "uncaught_exception"),
    ] {
        let wat = format!(r#"(module (memory 1) (table 1 funcref) (tag $tag) (func $start (export "_start") {body}))"#);
        assert_eq!(trapped(run(&wat, RunSpec::default()).await.unwrap()).kind, kind);
    }
    let wat = component(r#"(func $boom (export "run") (result i32) unreachable)"#);
    let trap = trapped(run(&wat, RunSpec::default()).await.unwrap());
    assert_eq!(trap.kind, "unreachable");
    assert!(trap.backtrace.unwrap().contains("boom"));
}

#[tokio::test]
async fn names_in_a_wasm_begin_no_line_and_steer_no_terminal() {
    let name = r#"(@name "\1b[2J\0anote: signed\0d")"#;
    let wat = format!(r#"(module {name} (func $f {name} unreachable) (func (export "_start") (call $f)))"#);
    let backtrace = trapped(run(&wat, RunSpec::default()).await.unwrap()).backtrace.unwrap();
    assert!(backtrace.lines().all(|line| line.starts_with("  ")) && backtrace.lines().count() == 2, "{backtrace}");
    assert!(backtrace.contains(r"\u{1b}[2J\nnote: signed\r") && !backtrace.contains(['\x1b', '\r']), "{backtrace}");
    let wat = r#"(module (import "\1b[2J" "\0anote: signed" (func)) (func (export "_start")))"#;
    let error = run(wat, RunSpec::default()).await.unwrap_err().to_string();
    assert!(error.contains(r"`\u{1b}[2J::\nnote: signed`"), "{error}");
}

#[tokio::test]
async fn a_guest_holds_no_more_of_the_hosts_than_it_may() {
    // As many timers as it is told, at once: all zeros is one that is over.
    let polls = |count: u32| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 64)
                (func (export "_start")
                    (if (call $poll (i32.const 65536) (i32.const 2097152) (i32.const {count}) (i32.const 0))
                        (then (unreachable)))))"#
        )
    };
    assert_eq!(exited(&run(&polls(5_000), RunSpec::default()).await.unwrap()), 0);
    let trap = trapped(run(&polls(20_000), RunSpec::default()).await.unwrap());
    assert_eq!((trap.kind, trap.message.contains("held more than 16384")), ("host_error", true), "{}", trap.message);
}

#[test]
fn what_the_pool_can_never_hold_is_said_in_its_numbers() {
    let wasm = wat::parse_str(r#"(module (memory i64 0x40000000) (func (export "_start")))"#).unwrap();
    let engine = Engine::new(&EngineOptions { pooling: true, max_instances: 2, ..EngineOptions::default() }).unwrap();
    let refused = Module::from_binary(engine.wasmtime(), &wasm).map(drop).unwrap_err();
    let StartError::Limit { what: error::MEMORY, needed, limit } = StartError::from_load(&refused) else {
        panic!("{refused:#}")
    };
    assert_eq!((needed, limit), (1 << 46, 1 << 32));
}

#[tokio::test]
async fn a_start_function_that_traps_has_run() {
    let wat = r#"(module (func $early unreachable) (start $early) (func (export "_start")))"#;
    assert_eq!(trapped(run(wat, RunSpec::default()).await.unwrap()).kind, "unreachable");
    let wat = r#"(module (memory 1) (data (i32.const 65536) "x") (func (export "_start")))"#;
    let error = run(wat, RunSpec::default()).await.unwrap_err();
    assert!(matches!(error, StartError::Instantiate { .. }), "no instruction ran: {error:?}");
}

#[tokio::test]
async fn an_unknown_import_is_named() {
    let error =
        prepare_on(&engine(), r#"(module (import "env" "abort" (func)) (func (export "_start")))"#).unwrap_err();
    assert!(error.to_string().contains("env::abort"), "{error}");
    let error = crate::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::CannotStart);
    assert!(error.next().unwrap().contains("AssemblyScript"));

    let error = prepare_on(&engine(), r#"(component (import "wasi:http/types@0.2.0" (instance (export "f" (func)))))"#)
        .unwrap_err();
    assert!(
        matches!(&error, StartError::UnknownImport { module, name: None, .. } if module == "wasi:http/types@0.2.0"),
        "{error:?}"
    );

    let error = prepare_on(
        &engine(),
        r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "nothing" (func)))))"#,
    )
    .unwrap_err();
    assert!(matches!(&error, StartError::UnknownImport { name: Some(name), .. } if name == "nothing"), "{error:?}");

    let error =
        prepare_on(&engine(), r#"(component (import "wasi:cli/exit@0.2.0" (instance (export "exit" (func)))))"#)
            .unwrap_err();
    assert!(
        matches!(&error, StartError::IncompatibleImport { import, .. } if import == "wasi:cli/exit@0.2.0"),
        "{error:?}"
    );

    let error = prepare_on(
        &engine(),
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func)) (func (export "_start")))"#,
    )
    .unwrap_err();
    assert!(
        matches!(&error, StartError::IncompatibleImport { import, .. } if import.contains("proc_exit")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_library_is_not_a_command() {
    for (wat, words) in [
        ("(module)", "no `_start`"),
        (r#"(module (func (export "_initialize")))"#, "reactor"),
        (r#"(module (func (export "_start") (param i32)))"#, "without parameters"),
        ("(component)", "wasi:cli/run"),
    ] {
        let error = prepare_on(&engine(), wat).unwrap_err();
        assert!(matches!(&error, StartError::NoEntry { why, .. } if why.contains(words)), "{error:?}");
    }
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let engine = engine();
    assert!(matches!(engine.compile(b"\x7fELF"), Err(StartError::NotWasm { .. })));
    let good = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    let error = engine.compile(&good[..good.len() - 1]).unwrap_err();
    assert!(matches!(error, StartError::Malformed { .. }), "{error:?}");
    let wide =
        wat::parse_str("(module (func (param i64 i64) (result i64 i64) (i64.mul_wide_u (local.get 0) (local.get 1))))")
            .unwrap();
    let error = engine.compile(&wide).unwrap_err();
    assert!(matches!(error, StartError::Unsupported { .. }), "{error:?}");
}

#[tokio::test]
async fn memory_is_limited_to_the_byte() {
    // Exits with 1 if growing from one page to two fails.
    let wat = format!(
        r#"(module {EXIT} (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))))"#
    );
    let limited = |bytes| RunSpec { limits: Limits { memory_bytes: bytes, ..Limits::default() }, ..RunSpec::default() };
    for options in
        [EngineOptions::default(), EngineOptions { pooling: true, max_instances: 4, ..EngineOptions::default() }]
    {
        let engine = Engine::new(&options).unwrap();
        let execution = run_on(&engine, &wat, limited(131_072)).await.unwrap();
        assert_eq!((exited(&execution), execution.peak_memory_bytes), (0, 131_072));
        let execution = run_on(&engine, &wat, limited(131_071)).await.unwrap();
        assert_eq!((exited(&execution), execution.peak_memory_bytes), (1, 65_536));
        let error = run_on(&engine, &wat, limited(65_535)).await.unwrap_err();
        assert!(matches!(error, StartError::Limit { needed: 65_536, limit: 65_535, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn failed_growth_does_not_lift_the_limit() {
    // Grows by a page, then asks for what the memory's type can't hold, again and again; exits with the pages.
    let wat = format!(
        r#"(module {EXIT} (memory (export "memory") 1) (func (export "_start") (local $n i32)
            (loop $l
                (drop (memory.grow (i32.const 1)))
                (drop (memory.grow (i32.const 65536)))
                (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 50))))
            (call $exit (memory.size))))"#
    );
    let limits = Limits { memory_bytes: 10 * 65_536, ..Limits::default() };
    let execution = run(&wat, RunSpec { limits, ..RunSpec::default() }).await.unwrap();
    assert_eq!(exited(&execution), 10);
}

#[tokio::test]
async fn tables_and_instances_are_limited() {
    let wat = r#"(module (table 100 funcref) (func (export "_start")))"#;
    let limits = Limits { table_elements: 99, ..Limits::default() };
    let error = run(wat, RunSpec { limits, ..RunSpec::default() }).await.unwrap_err();
    assert!(matches!(error, StartError::Limit { what: "table elements", needed: 100, limit: 99 }), "{error:?}");
    let limits = Limits { instances: 0, ..Limits::default() };
    let error = run(wat, RunSpec { limits, ..RunSpec::default() }).await.unwrap_err();
    assert!(matches!(error, StartError::Instantiate { .. }), "{error:?}");
}

/// An input that never has anything.
fn silent() -> (Input, tokio::io::DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(8);
    (Input::reader(theirs), ours)
}

/// Runs `wat` and expects it to end soon.
async fn ends_soon(wat: &str, limits: Limits, cancel_after: Option<Duration>) -> Execution {
    let engine = engine();
    let prepared = prepare_on(&engine, wat).unwrap();
    let cancel = CancellationToken::new();
    if let Some(after) = cancel_after {
        let cancel = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            cancel.cancel();
        });
    }
    let (stdin, _hold) = silent();
    // A pipe that nobody reads.
    let (_unread, writer) = tokio::io::duplex(1024);
    let spec = RunSpec { stdin, stdout: Output::writer(writer), limits, ..RunSpec::default() };
    let began = Instant::now();
    let execution = engine.run(&prepared, spec, &cancel).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    execution
}

const MOMENT: Duration = Duration::from_millis(60);

#[tokio::test]
async fn a_wall_clock_limit_ends_busy_and_sleeping_guests() {
    let limits = Limits { wall: Some(MOMENT), ..Limits::default() };
    for wat in
        [LOOP, READ, SLEEP, WRITE, &component(r#"(func (export "run") (result i32) (loop $l (br $l)) unreachable)"#)]
    {
        let execution = ends_soon(wat, limits, None).await;
        assert_eq!(execution.outcome, Outcome::TimedOut(Clock::Wall), "{wat}");
        assert!(execution.run >= MOMENT / 2, "{execution:?}");
    }
}

#[tokio::test]
async fn a_cpu_limit_ends_busy_guests_only() {
    let cpu = Limits { cpu: Some(MOMENT), ..Limits::default() };
    let execution = ends_soon(LOOP, cpu, None).await;
    assert_eq!(execution.outcome, Outcome::TimedOut(Clock::Cpu));
    assert!(execution.cpu >= MOMENT, "{execution:?}");
    let both = Limits { wall: Some(MOMENT * 3), ..cpu };
    let execution = ends_soon(SLEEP, both, None).await;
    assert_eq!(execution.outcome, Outcome::TimedOut(Clock::Wall), "sleep costs no CPU time");
    assert!(execution.cpu < MOMENT, "{execution:?}");
}

#[tokio::test]
async fn cancellation_ends_busy_and_sleeping_guests() {
    for wat in [LOOP, READ, SLEEP, WRITE] {
        assert_eq!(ends_soon(wat, Limits::default(), Some(MOMENT)).await.outcome, Outcome::Cancelled, "{wat}");
    }
    let early = r#"(module (func $early (loop $l (br $l))) (start $early) (func (export "_start")))"#;
    assert_eq!(ends_soon(early, Limits::default(), Some(MOMENT)).await.outcome, Outcome::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn guests_share_one_worker_and_the_pool_has_an_end() {
    let engine = Engine::new(&EngineOptions { pooling: true, max_instances: 2, ..EngineOptions::default() }).unwrap();
    let prepared = prepare_on(&engine, LOOP).unwrap();
    let cancel = CancellationToken::new();
    let start = || {
        let (engine, prepared, cancel) = (engine.clone(), prepared.clone(), cancel.clone());
        tokio::spawn(async move { engine.run(&prepared, RunSpec::default(), &cancel).await })
    };
    let busy = [start(), start()];
    tokio::time::sleep(MOMENT).await;
    let third = start().await.unwrap();
    assert!(matches!(third, Err(StartError::Busy { .. })), "{third:?}");
    cancel.cancel();
    for guest in busy {
        assert_eq!(guest.await.unwrap().unwrap().outcome, Outcome::Cancelled);
    }
}

/// Opens (creating it, for writing) the path at 1024 below the first folder, exits with the errno.
fn opener(path: &str, write: bool) -> String {
    let (flags, rights) = if write { (1, 64) } else { (0, 2) };
    format!(
        r#"(module {EXIT}
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 1024) "{path}")
            (func (export "_start") (call $exit (call $open (i32.const 3) (i32.const 1) (i32.const 1024)
                (i32.const {}) (i32.const {flags}) (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 8)))))"#,
        path.len()
    )
}

#[tokio::test]
async fn folders_are_bounded_and_read_only_where_asked() {
    let outside = tempfile::tempdir().unwrap();
    let host = outside.path().join("given");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    std::fs::write(host.join("file"), "f").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), host.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../secret", host.join("relative")).unwrap();
    let open = async |path: &str, write: bool, read_only: bool| {
        let dirs = vec![DirSpec { host: host.clone(), guest: "/d".into(), read_only }];
        exited(&run(&opener(path, write), RunSpec { dirs, ..RunSpec::default() }).await.unwrap())
    };
    assert_eq!(open("file", false, true).await, 0);
    assert_eq!(open("new", true, false).await, 0);
    assert!(host.join("new").exists());
    assert_ne!(open("other", true, true).await, 0);
    assert!(!host.join("other").exists());
    for escape in ["../secret", "absolute", "relative", "./../given/../secret", "/etc/passwd"] {
        assert_ne!(open(escape, false, false).await, 0, "{escape}");
    }
    assert_ne!(open("../planted", true, false).await, 0);
    assert!(!outside.path().join("planted").exists());

    let dirs = vec![DirSpec { host: outside.path().join("nowhere"), guest: "/d".into(), read_only: true }];
    let error = run(LOOP, RunSpec { dirs, ..RunSpec::default() }).await.unwrap_err();
    assert!(
        matches!(&error, StartError::DirUnavailable { source, .. } if source.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
}

/// A component that creates a TCP socket and begins to connect it to 127.0.0.1:`port`.
fn connector(port: u16) -> String {
    format!(
        r#"(component
        (import "wasi:io/streams@0.2.0" (instance $streams
            (export "input-stream" (type $input (sub resource)))
            (export "output-stream" (type $output (sub resource)))))
        (alias export $streams "input-stream" (type $input))
        (alias export $streams "output-stream" (type $output))
        (import "wasi:sockets/network@0.2.0" (instance $network
            (export "network" (type $network (sub resource)))
            (type $code' (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
                "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
                "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused" "connection-reset"
                "connection-aborted" "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
                "permanent-resolver-failure"))
            (export "error-code" (type $code (eq $code')))
            (type $family' (enum "ipv4" "ipv6"))
            (export "ip-address-family" (type $family (eq $family')))
            (type $a4' (tuple u8 u8 u8 u8))
            (export "ipv4-address" (type $a4 (eq $a4')))
            (type $a6' (tuple u16 u16 u16 u16 u16 u16 u16 u16))
            (export "ipv6-address" (type $a6 (eq $a6')))
            (type $s4' (record (field "port" u16) (field "address" $a4)))
            (export "ipv4-socket-address" (type $s4 (eq $s4')))
            (type $s6' (record (field "port" u16) (field "flow-info" u32) (field "address" $a6) (field "scope-id" u32)))
            (export "ipv6-socket-address" (type $s6 (eq $s6')))
            (type $sa' (variant (case "ipv4" $s4) (case "ipv6" $s6)))
            (export "ip-socket-address" (type $sa (eq $sa')))))
        (alias export $network "network" (type $net))
        (alias export $network "error-code" (type $code))
        (alias export $network "ip-address-family" (type $family))
        (alias export $network "ip-socket-address" (type $address))
        (import "wasi:sockets/instance-network@0.2.0" (instance $instance-network
            (alias outer 1 $net (type $net-outer))
            (export "network" (type $n (eq $net-outer)))
            (export "instance-network" (func (result (own $n))))))
        (import "wasi:sockets/tcp@0.2.0" (instance $tcp
            (alias outer 1 $net (type $net-outer))
            (export "network" (type $n (eq $net-outer)))
            (alias outer 1 $code (type $code-outer))
            (export "error-code" (type $c (eq $code-outer)))
            (alias outer 1 $address (type $address-outer))
            (export "ip-socket-address" (type $a (eq $address-outer)))
            (alias outer 1 $input (type $input-outer))
            (export "input-stream" (type $in (eq $input-outer)))
            (alias outer 1 $output (type $output-outer))
            (export "output-stream" (type $out (eq $output-outer)))
            (export "tcp-socket" (type $socket (sub resource)))
            (export "[method]tcp-socket.finish-connect" (func (param "self" (borrow $socket))
                (result (result (tuple (own $in) (own $out)) (error $c)))))
            (export "[method]tcp-socket.start-connect" (func (param "self" (borrow $socket)) (param "network" (borrow $n))
                (param "remote-address" $a) (result (result (error $c)))))))
        (alias export $tcp "tcp-socket" (type $socket))
        (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
            (alias outer 1 $code (type $code-outer))
            (export "error-code" (type $c (eq $code-outer)))
            (alias outer 1 $family (type $family-outer))
            (export "ip-address-family" (type $f (eq $family-outer)))
            (alias outer 1 $socket (type $socket-outer))
            (export "tcp-socket" (type $s (eq $socket-outer)))
            (export "create-tcp-socket" (func (param "address-family" $f) (result (result (own $s) (error $c)))))))
        (core module $memory (memory (export "memory") 1))
        (core instance $memory (instantiate $memory))
        (core func $instance-network (canon lower (func $instance-network "instance-network")))
        (core func $create (canon lower (func $create "create-tcp-socket") (memory $memory "memory")))
        (core func $connect (canon lower (func $tcp "[method]tcp-socket.start-connect") (memory $memory "memory")))
        (core func $finish (canon lower (func $tcp "[method]tcp-socket.finish-connect") (memory $memory "memory")))
        (core module $m
            (import "h" "finish" (func $finish (param i32 i32)))
            (import "h" "network" (func $network (result i32)))
            (import "h" "create" (func $create (param i32 i32)))
            (import "h" "connect" (func $connect (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
            (import "m" "memory" (memory 1))
            (func (export "run") (result i32)
                (call $create (i32.const 0) (i32.const 0))
                (if (i32.load8_u (i32.const 0)) (then (return (i32.const 1))))
                (call $connect (i32.load (i32.const 4)) (call $network) (i32.const 0) (i32.const {port})
                    (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
                    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16))
                (call $finish (i32.load (i32.const 4)) (i32.const 32))
                (i32.load8_u (i32.const 16))))
        (core instance $i (instantiate $m
            (with "h" (instance (export "network" (func $instance-network)) (export "create" (func $create))
                (export "finish" (func $finish)) (export "connect" (func $connect))))
            (with "m" (instance $memory))))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $run-instance (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#
    )
}

#[tokio::test]
async fn the_network_is_closed_but_for_the_rules() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let engine = engine();
    // The guest doesn't wait for the connection: whether somebody came is what counts.
    let connects = async |rules: &[String]| {
        let allow_net = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        run_on(&engine, &connector(port), RunSpec { allow_net, ..RunSpec::default() }).await.unwrap();
        tokio::time::sleep(MOMENT).await;
        listener.accept().is_ok()
    };
    assert!(!connects(&[]).await, "denied by default");
    assert!(!connects(&[format!("127.0.0.1:{}", port ^ 1), format!("127.0.0.2:{port}")]).await);
    assert!(connects(&[format!("127.0.0.1:{port}")]).await);
    let error = run(
        "(module (func (export \"_start\")))",
        RunSpec { allow_net: vec!["no-such-host.invalid:80".parse().unwrap()], ..RunSpec::default() },
    )
    .await
    .unwrap_err();
    assert!(matches!(error, StartError::NetUnavailable { .. }), "{error:?}");
}

#[test]
fn fingerprints_tell_configurations_apart() {
    let (first, second) = (engine(), engine());
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.fingerprint().len(), 64);
    let pooled = Engine::new(&EngineOptions { pooling: true, max_instances: 2, ..EngineOptions::default() }).unwrap();
    assert_eq!(first.fingerprint(), pooled.fingerprint(), "a node and `vyr run` share their compiled code");
    let pin = format!("wasmtime = {{ version = \"={WASMTIME}\"");
    assert!(include_str!("../../Cargo.toml").contains(&pin), "WASMTIME is the version that Cargo.toml pins");
}

#[test]
fn runs_are_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let engine = engine();
    let prepared = prepare_on(&engine, LOOP).unwrap();
    let cancel = CancellationToken::new();
    drop(send(engine.run(&prepared, RunSpec::default(), &cancel)));
}
