use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vyr_oci_fallback::container::*;
use vyr_oci_fallback::engine::Choice;
use vyr_oci_fallback::process::Process;
use vyr_oci_fallback::snapshot::*;

pub(crate) fn quick() {
    let mut args = std::env::args().skip(1);
    let engine = match args.next().as_deref() { Some("lib") => Choice::Libcontainer, Some(p) => Choice::Installed(p.into()), None => panic!() };
    let n: usize = args.next().unwrap().parse().unwrap();
    let user = rustix::process::geteuid().is_root();
    let rootfs = Rootfs { layers: vec![PathBuf::from("/tmp/b-bench/rootfs")], method: Method::Overlay, rights: if user {Rights::Root} else {Rights::User} };
    let argv: Vec<String> = args.collect();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut times = vec![];
    for i in 0..n {
        let t = std::time::Instant::now();
        let null = || std::fs::File::open("/dev/null").unwrap();
        let request = Request {
            id: format!("q{i}"), rootfs: &rootfs,
            process: Process { argv: argv.clone(), env: vec![("PATH".into(), "/bin".into())], cwd: "/".into(), uid: 0, gid: 0, groups: vec![], stop_signal: 15, volumes: vec![] },
            hostname: "host".into(), mounts: vec![], writable_root: false, limits: Limits::default(), network: Network::None,
            stop_grace: Duration::from_secs(1),
            stdio: Stdio { stdin: null().into(), stdout: rustix::io::dup(std::io::stdout()).unwrap(), stderr: rustix::io::dup(std::io::stderr()).unwrap() },
        };
        let r = rt.block_on(run(&engine, request, &CancellationToken::new()));
        times.push(t.elapsed().as_secs_f64()*1e3);
        if i == 0 || r.is_err() { println!("{r:?}"); }
    }
    times.sort_by(f64::total_cmp);
    println!("P50 {:.2} ms", times[times.len()/2]);
}
