//! The executor is killed before and after every system call by which it changes the disk, each one in a
//! run of its own, of a deployment and of a way back. Started again, it must come to the end that it would
//! have come to, with the same tree. And where the disk refuses to make something durable, it ends itself.
//!
//! What is killed loses nothing that it has written; [`power`] is about that.
//!
//! The real program is traced as a debugger does it: nothing in it knows of this test.

mod power;

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use groundswell_protocol::{limits::RECEIPT_AGE_MAX, revision::FileExistsBehavior};
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::*;

/// System calls that change what is on a disk, or make it durable.
const CHANGES: [i64; 25] = [
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_copy_file_range,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fsetxattr,
    libc::SYS_ftruncate,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_sendfile,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_pwrite64,
    libc::SYS_fallocate,
];
const SYNCS: [i64; 4] = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs, libc::SYS_sync];
/// How often Install begins anew where files appear in its way.
const LOOKS_MAX: usize = 3;
/// A call that has not been carried out yet has this for its result.
const AT_ENTRY: u64 = Errno::ENOSYS as u64;

/// What happens to the traced process.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is killed before this one of its changes, counted from 0.
    Kill(usize),
    /// This one of its syncs fails.
    SyncFails(usize),
    /// The first threads that make this system call stand still in it until they are let go, one after the other,
    /// so many times.
    Stalls(i64, usize),
}

/// Traces a process until it ends, or until it is told to let it go.
struct Tracer {
    stop: mpsc::Sender<()>,
    /// Tells of a thread that stands still.
    stalls: mpsc::Receiver<()>,
    thread: JoinHandle<Traced>,
    pid: Pid,
}

/// What was seen of a process until its end.
struct Traced {
    /// Whether the fault came about.
    came: bool,
    /// The system calls that are counted, in their order.
    calls: Vec<i64>,
    /// The exit code, if it was not killed.
    code: Option<i32>,
}

impl Tracer {
    fn of(child: &Child, fault: Fault) -> Self {
        Self::watching(child, fault, || {})
    }

    /// The same, and does something before each system call that is counted.
    fn watching(child: &Child, fault: Fault, watch: impl FnMut() + Send + 'static) -> Self {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (stop, stopped) = mpsc::channel();
        let (ready_in, ready) = mpsc::channel();
        let thread = thread::spawn(move || trace(pid, fault, watch, &ready_in, &stopped));
        ready.recv().unwrap();
        Self { stop, stalls: ready, thread, pid }
    }

    /// Lets go whoever stands still. Whatever the process does next brings it about.
    fn let_go(&self) {
        self.stop.send(()).unwrap();
    }

    /// Ends the process if it does not end by itself. It is no child afterwards: who traces it has reaped it.
    fn end(self, ends_itself: bool) -> Traced {
        self.stop.send(()).ok();
        if !ends_itself {
            kill(self.pid, Signal::SIGKILL).ok();
        }
        self.thread.join().unwrap()
    }
}

/// All threads of the process stop at the beginning and the end of every system call; only the thread that
/// traces them hears of it.
fn trace(
    pid: Pid,
    fault: Fault,
    mut watch: impl FnMut(),
    ready: &mpsc::Sender<()>,
    stopped: &mpsc::Receiver<()>,
) -> Traced {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let name = task.unwrap().file_name().into_string().unwrap();
        let thread = Pid::from_raw(name.parse().unwrap());
        // One that serves a connection may end meanwhile.
        if ptrace::seize(thread, options).is_ok() {
            ptrace::interrupt(thread).ok();
        }
    }
    let (mut count, mut came, mut failing) = (0, false, Vec::new());
    let (mut code, mut calls) = (None, Vec::new());
    let mut is_ready = false;
    let mut stalled = None;
    loop {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let event = waitpid(None, Some(flags));
        if stopped.try_recv().is_ok() {
            stalled.take().map(|thread| ptrace::syscall(thread, None).ok());
        }
        let (thread, signal) = match event {
            Err(Errno::ECHILD) => return Traced { came, code, calls },
            Err(Errno::EINTR) => continue,
            Err(error) => panic!("{error}"),
            Ok(WaitStatus::Exited(ended, status)) => {
                if ended == pid {
                    code = Some(status);
                }
                continue;
            }
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                if let Ok(mut registers) = ptrace::getregs(thread) {
                    let is_entry = registers.rax == AT_ENTRY.wrapping_neg();
                    if let Some(at) = failing.iter().position(|failing| *failing == thread) {
                        failing.swap_remove(at);
                        registers.rax = (Errno::EIO as u64).wrapping_neg();
                        ptrace::setregs(thread, registers).ok();
                    } else if is_entry {
                        let is_step = counts(thread, &registers, fault);
                        let is_it = is_step
                            && match fault {
                                Fault::Kill(at) | Fault::SyncFails(at) => !came && at == count,
                                Fault::Stalls(_, times) => count < times,
                            };
                        count += usize::from(is_step);
                        if is_step {
                            watch();
                            calls.push(i64::try_from(registers.orig_rax).unwrap());
                        }
                        match fault {
                            Fault::Kill(_) if is_it => {
                                came = true;
                                kill(pid, Signal::SIGKILL).ok();
                            }
                            Fault::SyncFails(_) if is_it => {
                                came = true;
                                // There is no such call: nothing is made durable.
                                registers.orig_rax = u64::MAX;
                                ptrace::setregs(thread, registers).unwrap();
                                failing.push(thread);
                            }
                            Fault::Stalls(..) if is_it => {
                                came = true;
                                stalled = Some(thread);
                                ready.send(()).unwrap();
                                continue;
                            }
                            _ => {}
                        }
                    }
                }
                (thread, None)
            }
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            Ok(_) => continue,
        };
        // Whoever is gone needs no more.
        ptrace::syscall(thread, signal).ok();
        if !is_ready {
            is_ready = true;
            ready.send(()).unwrap();
        }
    }
}

fn counts(thread: Pid, registers: &libc::user_regs_struct, fault: Fault) -> bool {
    let call = i64::try_from(registers.orig_rax).unwrap_or(-1);
    match fault {
        Fault::SyncFails(_) => return SYNCS.contains(&call),
        Fault::Stalls(in_call, _) => return call == in_call,
        Fault::Kill(_) => {}
    }
    let flags = i32::try_from(match call {
        libc::SYS_open => registers.rsi,
        libc::SYS_openat => registers.rdx,
        _ => 0,
    });
    let creates = flags.is_ok_and(|flags| flags & libc::O_CREAT != 0);
    // What goes to a socket or to a log, which grows in bytes, is no step.
    let writes = call == libc::SYS_write
        && fs::read_link(format!("/proc/{thread}/fd/{}", registers.rdi)).is_ok_and(|file| {
            file.is_absolute() && file.extension().is_none_or(|ending| ending != "log")
        });
    creates || writes || CHANGES.contains(&call) || SYNCS.contains(&call)
}

/// What there is, by its path.
type Tree = BTreeMap<PathBuf, String>;
/// When something last changed in each directory.
type Times = BTreeMap<PathBuf, (i64, i64)>;

/// Everything below a directory: kind, mode, owner, time and content.
fn tree(dir: &Path) -> Tree {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let there = fs::symlink_metadata(&path).unwrap();
        let content = match there.is_dir() {
            true => {
                found.append(&mut tree(&path));
                String::new()
            }
            false => format!("{} {}", there.mtime(), fs::read_to_string(&path).unwrap()),
        };
        let (mode, owner, group) = (there.mode(), there.uid(), there.gid());
        found.insert(path, format!("{mode:o} {owner} {group} {content}"));
    }
    found
}

/// Those of all directories below this one.
fn times(dir: &Path) -> Times {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let there = fs::symlink_metadata(&path).unwrap();
        if there.is_dir() {
            found.append(&mut times(&path));
            found.insert(path, (there.mtime(), there.mtime_nsec()));
        }
    }
    found
}

/// Whatever a deployment is about to do, and how it must end.
struct Way {
    scripts: &'static [(LifecycleEvent, &'static str)],
    succeeds: bool,
}

const FORWARD: Way = Way {
    scripts: &[
        (LifecycleEvent::BeforeInstall, "#!/bin/sh\n"),
        (LifecycleEvent::ApplicationStart, "#!/bin/sh\n"),
    ],
    succeeds: true,
};
/// Whatever of the old revision a script removes before Install and after it comes back.
const BACK: Way = Way {
    scripts: &[
        (LifecycleEvent::BeforeInstall, "#!/bin/sh\nrm -rf \"${0%/root/*}/live/srv/app\"\n"),
        (LifecycleEvent::AfterInstall, "#!/bin/sh\nrm -rf \"${0%/root/*}/live/srv\"\nexit 1\n"),
    ],
    succeeds: false,
};

impl Bench {
    /// A host that runs the first revision, and the evidence for the second.
    fn before(way: &Way) -> (Self, Evidence) {
        Self::new().with_first(way)
    }

    fn with_first(mut self, way: &Way) -> (Self, Evidence) {
        let first = self.evidence();
        assert_eq!(self.run(&first), Outcome::Succeeded);
        let second = self.publish(way.scripts, &first);
        (self, second)
    }

    /// Does what `swelld` does until the deployment has ended and its slot was given back. None if the
    /// executor dies.
    fn try_run(&self, evidence: &Evidence) -> Option<Outcome> {
        self.try_ask(&Request::Stage(Box::new(evidence.clone())))?;
        loop {
            let Response::Report(report) = self.try_ask(&Request::Report { seen: 0 })? else {
                panic!("no report")
            };
            let (group, token) = (report.groups.first(), self.token());
            if group.is_some_and(|group| group.is_done_with(token)) {
                self.token.store(token + 1, Ordering::Relaxed);
                return self.ended.lock().unwrap().take();
            }
            let activation = group.and_then(|group| group.activation.clone());
            match activation.map(|activation| activation.phase) {
                Some(Phase::Ended(outcome)) => {
                    let group = GroupName::new("web").unwrap();
                    *self.ended.lock().unwrap() = Some(outcome);
                    self.try_ask(&Request::Returned { group, token })?;
                }
                Some(Phase::Running { .. }) => {}
                Some(Phase::Interrupted { .. }) | None => {
                    let request = Request::Prepare {
                        group: GroupName::new("web").unwrap(),
                        order: evidence.order,
                        release: evidence.release.id(self.fleet),
                    };
                    let Response::Prepared { nonce } = self.try_ask(&request)? else { panic!() };
                    let receipts = self.receipts(evidence, nonce, &[20, 21]);
                    let evidence = Box::new(evidence.clone());
                    let response =
                        self.try_ask(&Request::Activate { evidence, token, receipts })?;
                    assert_eq!(response, Response::Accepted);
                }
            }
        }
    }

    fn try_ask(&self, request: &Request) -> Option<Response> {
        let mut stream = UnixStream::connect(self.path("exec.sock")).ok()?;
        let bytes = cbor::encode(request);
        stream.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).ok()?;
        stream.write_all(&bytes).ok()?;
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut bytes).ok()?;
        Some(cbor::decode(&bytes, EXECUTOR_FRAME_BYTES_MAX).unwrap())
    }

    /// Lets an executor that was started again come to its end, and sees that it is the right one.
    fn finish(&self, evidence: &Evidence, way: &Way, new: &Tree, times_before: &Times, what: &str) {
        // It may have died when all but the last answer was done: then it ends as it began, again.
        let is_at_work =
            self.report().groups.first().is_none_or(|group| group.activation.is_some());
        if is_at_work || !is_over(self, evidence, way) {
            let outcome = self.try_run(evidence).expect("it ends");
            assert_eq!(outcome == Outcome::Succeeded, way.succeeds, "{what}: {outcome:?}");
            if let Outcome::Failed { restored, .. } = outcome {
                assert!(restored, "{what}: the old revision is not back");
            }
        }
        assert_eq!(self.live(), *new, "{what}");
        if !way.succeeds {
            assert_eq!(times(&self.path("live")), *times_before, "{what}");
        }
        let current = self.report().groups[0].current.clone().map(|(_, label)| label.to_string());
        let expected = if way.succeeds { "2" } else { "1" };
        assert_eq!(current.as_deref(), Some(expected), "{what}");
        let half = self.deployments().into_iter().find(|dir| dir.join("part").exists());
        assert_eq!(half, None, "{what}");
    }

    /// The live tree, by paths that are the same on every bench.
    fn live(&self) -> Tree {
        let root = self.path("live");
        let relative = |path: PathBuf| path.strip_prefix(&root).unwrap().to_owned();
        tree(&root).into_iter().map(|(path, what)| (relative(path), what)).collect()
    }
}

/// Runs with one fault after the other until there are no more, finishing each. Returns how many there were.
fn with_every(way: &Way, fault: fn(usize) -> Fault) -> usize {
    let (bench, evidence) = Bench::before(way);
    let old = bench.live();
    let outcome = bench.try_run(&evidence).unwrap();
    assert_eq!(outcome == Outcome::Succeeded, way.succeeds, "{outcome:?}");
    let new = bench.live();
    assert_eq!(new == old, !way.succeeds, "{new:?}");
    for number in 0.. {
        let (mut bench, evidence) = Bench::before(way);
        let times_before = times(&bench.path("live"));
        let tracer = Tracer::of(&bench.child, fault(number));
        let begun = bench.try_run(&evidence);
        let traced = tracer.end(begun.is_none());
        assert_eq!(
            traced.came,
            begun.is_none(),
            "fault {number} came, and it lived on, or the reverse"
        );
        if !traced.came {
            return number;
        }
        if let Fault::SyncFails(_) = fault(number) {
            assert_eq!(traced.code, Some(74), "fault {number}");
        }
        bench.child = start(bench.dir.path());
        bench.finish(&evidence, way, &new, &times_before, &format!("fault {number}"));
        let record = bench.deployments().into_iter().find(|dir| dir.join("hook").exists());
        assert_eq!(record, None, "fault {number}");
    }
    unreachable!()
}

/// Whether the slot was given back already.
fn is_over(bench: &Bench, evidence: &Evidence, way: &Way) -> bool {
    let (report, release) = (bench.report(), evidence.release.id(bench.fleet));
    let Some(group) = report.groups.first() else { return false };
    let is_new = group.current.as_ref().is_some_and(|(current, _)| *current == release);
    // Of what another process has ended nobody here has heard.
    let is_known = bench.ended.lock().unwrap().is_some();
    way.succeeds && is_new || group.is_done_with(bench.token()) && !is_known
}

#[test]
fn a_deployment_that_is_killed_at_any_change_of_the_disk_is_finished() {
    let count = with_every(&FORWARD, Fault::Kill);
    eprintln!("killed before each of {count} changes");
    assert!(count > 50, "only {count} changes");
}

#[test]
fn a_way_back_that_is_killed_at_any_change_of_the_disk_is_finished() {
    let count = with_every(&BACK, Fault::Kill);
    eprintln!("killed before each of {count} changes");
    assert!(count > 50, "only {count} changes");
}

#[test]
fn a_disk_that_makes_nothing_durable_ends_the_process() {
    for way in [&FORWARD, &BACK] {
        let count = with_every(way, Fault::SyncFails);
        eprintln!("{count} syncs failed");
        assert!(count > 5, "only {count} syncs");
    }
}

/// What is lost with the power shows no other way: of what is done between two syncs any part may be on the disk.
#[test]
fn all_is_durable_before_the_first_file_takes_its_place_and_nothing_waits_until_the_last() {
    let (bench, evidence) = Bench::before(&FORWARD);
    let tracer = Tracer::of(&bench.child, Fault::Kill(usize::MAX));
    assert_eq!(bench.try_run(&evidence), Some(Outcome::Succeeded));
    let calls = tracer.end(false).calls;
    // The journal's files are renamed by another call.
    let places = |call: &i64| [libc::SYS_renameat, libc::SYS_renameat2].contains(call);
    let first = calls.iter().position(places).expect("files are replaced");
    let last = calls.iter().rposition(places).unwrap();
    // What was there is saved, and what comes is complete, its time last.
    let is_saved = |call: &i64| [libc::SYS_linkat, libc::SYS_utimensat].contains(call);
    let ready = calls[..first].iter().rposition(is_saved).expect("something is saved");
    let then = |from: usize, call| from + calls[from..].iter().position(|it| *it == call).unwrap();
    // Then that this was done, then the directory that says so; and in the end that all is in place.
    let said = then(then(then(ready, libc::SYS_syncfs), libc::SYS_rename), libc::SYS_fsync);
    assert!(said < first && first < last, "{calls:?}");
    assert!(then(last, libc::SYS_syncfs) < then(last, libc::SYS_rename), "{calls:?}");
    let waits = calls[said + 1..last].iter().find(|call| SYNCS.contains(call));
    assert_eq!(waits, None, "{calls:?}");
}

/// A host whose executor was killed in Install, when some new files were complete.
fn half_installed() -> (Bench, Evidence) {
    for number in 0.. {
        let (mut bench, evidence) = Bench::before(&FORWARD);
        let tracer = Tracer::of(&bench.child, Fault::Kill(number));
        let begun = bench.try_run(&evidence);
        tracer.end(begun.is_none());
        assert_eq!(begun, None, "it was never half installed");
        if bench.has_temporaries() {
            bench.child = start(bench.dir.path());
            return (bench, evidence);
        }
    }
    unreachable!()
}

impl Bench {
    fn has_temporaries(&self) -> bool {
        let is_it =
            |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".swell-");
        self.live().keys().any(is_it)
    }
}

#[test]
fn what_was_half_installed_under_a_slot_that_was_released_goes_with_the_next_deployment() {
    let (mut bench, second) = half_installed();
    let action = Action::ReleaseSlot { host: host(ME), token: bench.token() };
    let release = bench.sign(&bench.order(3, second.order, action), OPERATOR);
    assert_eq!(bench.ask(&Request::Stop(release)), Response::Accepted);
    assert!(matches!(bench.outcome(), Outcome::Failed { .. }));
    assert_eq!(bench.give_back(), Response::Accepted);
    assert!(bench.has_temporaries(), "nobody has a slot for changing anything");

    bench.release = write_store(&bench.path("store"), "3", &[]);
    let order = Order { sequence: 3, parent: second.order, ..bench.deploy() };
    let order = bench.sign(&order, OPERATOR);
    let (id, orders) = (order.id(bench.fleet), vec![order]);
    let third = Evidence { order: id, orders, ..bench.evidence() };
    assert_eq!(bench.run(&third), Outcome::Succeeded);
    assert!(!bench.has_temporaries());
    let undo = bench.deployments().into_iter().find(|dir| dir.join("undo").exists());
    assert_eq!(undo, None);
    let only = |label: u8| bench.path("live/srv/app").join(format!("only-{label}")).exists();
    assert_eq!([1, 2, 3].map(only), [false, false, true]);
}

impl Bench {
    /// Evidence for the revision that is in the store, which deals so with what is in its way.
    fn after(&self, first: &Evidence, behavior: FileExistsBehavior) -> Evidence {
        let release = self.sign(&self.release, RELEASER).id(self.fleet);
        let mut deploy = Deploy::plain(release, 1);
        deploy.file_exists_behavior = Some(behavior);
        let order = self.sign(&self.order(2, first.order, Action::Deploy(deploy)), OPERATOR);
        Evidence { order: order.id(self.fleet), orders: vec![order], ..self.evidence() }
    }
}

/// A file appears where a new one is about to take its place.
#[test]
fn what_appears_in_the_middle_is_dealt_with_as_what_was_there_before() {
    use FileExistsBehavior::{Disallow, Overwrite, Retain};
    for (behavior, is_replaced) in [(Disallow, false), (Overwrite, true), (Retain, false)] {
        let mut bench = Bench::new();
        let first = bench.evidence();
        assert_eq!(bench.run(&first), Outcome::Succeeded);
        let before = bench.live();
        bench.release = write_store(&bench.path("store"), "2", &[]);
        let second = bench.after(&first, behavior);
        let theirs = bench.path("live/srv/app/only-2/data");
        // No other change is made by this call.
        let tracer = Tracer::of(&bench.child, Fault::Stalls(libc::SYS_renameat2, 1));
        let outcome = thread::scope(|scope| {
            let begun = scope.spawn(|| bench.try_run(&second));
            tracer.stalls.recv_timeout(Duration::from_secs(20)).expect("a new file is put there");
            fs::write(&theirs, "theirs").unwrap();
            tracer.let_go();
            bench.report();
            begun.join().unwrap()
        });
        tracer.end(false);
        assert_eq!(fs::read_to_string(&theirs).unwrap() == "2", is_replaced, "{behavior:?}");
        match outcome {
            Some(Outcome::Failed { message, restored, .. }) if behavior == Disallow => {
                assert!(restored && message.contains("a file is in the way"), "{message}");
                let mut after = bench.live();
                // Directories stay for what is in them.
                after.retain(|path, _| !path.starts_with("srv/app/only-2"));
                assert_eq!(after, before);
            }
            other => assert_eq!(other, Some(Outcome::Succeeded), "{behavior:?}"),
        }
        assert!(!bench.has_temporaries());
    }
}

/// Wherever a new file is about to take its place, one appears, though it is looked at again each time.
#[test]
fn who_puts_files_in_the_way_faster_than_they_are_looked_at_makes_it_fail() {
    let places = ["one/index.html", "one/only-2/data", "two/index.html", "two/only-2/data"];
    for (times, succeeds) in [(LOOKS_MAX, true), (LOOKS_MAX + 1, false)] {
        let mut bench = Bench::new();
        let first = bench.evidence();
        assert_eq!(bench.run(&first), Outcome::Succeeded);
        let before = bench.live();
        bench.release = write_store_for(&["/srv/one", "/srv/two"], &bench.path("store"), "2", &[]);
        let second = bench.after(&first, FileExistsBehavior::Overwrite);
        let tracer = Tracer::of(&bench.child, Fault::Stalls(libc::SYS_renameat2, times));
        let outcome = thread::scope(|scope| {
            let begun = scope.spawn(|| bench.try_run(&second));
            for place in &places[..times] {
                tracer.stalls.recv_timeout(Duration::from_secs(20)).expect("it is looked at again");
                fs::write(bench.path("live/srv").join(place), "theirs").unwrap();
                tracer.let_go();
                bench.report();
            }
            begun.join().unwrap()
        });
        tracer.end(false);
        let theirs = |place: &&&str| {
            let path = bench.path("live/srv").join(place);
            fs::read_to_string(path).is_ok_and(|text| text == "theirs")
        };
        let left = places.iter().filter(theirs).count();
        assert!(!bench.has_temporaries());
        if succeeds {
            assert_eq!((outcome, left), (Some(Outcome::Succeeded), 0));
            continue;
        }
        let Some(Outcome::Failed { message, restored, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(restored && message.contains(places[times - 1]), "{message}");
        assert_eq!(left, times, "what others have put there is still there");
        let mut after = bench.live();
        after.retain(|path, _| !path.starts_with("srv/one") && !path.starts_with("srv/two"));
        assert_eq!(after, before);
    }
}

#[test]
fn voters_that_were_replaced_while_a_revision_is_laid_out_vouch_for_nothing_any_more() {
    let bench = Bench::new();
    let evidence = bench.evidence();
    let nonce = bench.prepare(&evidence);
    let receipts = bench.receipts(&evidence, nonce, &[20, 21]);
    let tracer = Tracer::of(&bench.child, Fault::Stalls(libc::SYS_syncfs, 1));
    thread::scope(|scope| {
        let begun = scope.spawn(|| bench.activate(&evidence, receipts));
        tracer.stalls.recv().unwrap();
        // Who reads this report says that nothing begins here by the word of the old voters.
        let list = bench.voter_list(&[20, 21, 30], &[20, 21]);
        assert_eq!(bench.ask(&Request::Learn(vec![list])), Response::Accepted);
        assert_eq!(bench.report().generation, 1);
        bench.assert_untouched();
        tracer.let_go();
        bench.report();
        let refused = refusal(begun.join().unwrap());
        assert!(refused.contains("the voters have changed meanwhile"), "{refused}");
        bench.assert_untouched();
    });
    tracer.end(false);
}

#[test]
fn receipts_that_grow_old_while_the_journal_is_written_begin_nothing() {
    let mut bench = Bench::new();
    let first = bench.evidence();
    assert_eq!(bench.run(&first), Outcome::Succeeded);
    let scripts = &[(LifecycleEvent::BeforeInstall, "#!/bin/sh\n")];
    let evidence = bench.publish(scripts, &first);
    assert_eq!(bench.ask(&Request::Stage(Box::new(evidence.clone()))), Response::Accepted);
    let before = bench.live();
    let nonce = bench.prepare(&evidence);
    let receipts = bench.receipts(&evidence, nonce, &[20, 21]);
    let tracer = Tracer::of(&bench.child, Fault::Stalls(libc::SYS_fsync, 1));
    thread::scope(|scope| {
        let begun = scope.spawn(|| bench.activate(&evidence, receipts));
        tracer.stalls.recv().unwrap();
        thread::sleep(RECEIPT_AGE_MAX);
        tracer.let_go();
        bench.report();
        assert_eq!(begun.join().unwrap(), Response::Accepted);
    });
    let until = Instant::now() + Duration::from_secs(20);
    while bench.report().groups[0].activation.is_some() {
        assert!(Instant::now() < until, "{:?}", bench.report());
    }
    assert_eq!(bench.live(), before);
    // With new ones it begins.
    assert_eq!(bench.try_run(&evidence), Some(Outcome::Succeeded));
    tracer.end(false);
}
