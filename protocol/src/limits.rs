//! Every bound, with its unit at the end of its name and its reason. What strangers can reach is
//! tested at the limit and one past it, beside the code that checks it.
//!
//! A length is compared with its limit before anything is allocated for it.

use std::time::Duration;

// --- names and forms ---

/// A name's length; CodeDeploy's own limit.
pub const NAME_BYTES_MAX: usize = 100;
/// Labels of a host or in a filter.
pub const LABELS_MAX: usize = 32;
/// Nesting of CBOR items. Our deepest document uses nine levels.
pub const CBOR_DEPTH_MAX: usize = 16;
/// Free text in a document: reasons and notes. AWS allows 256 characters in a description.
pub const TEXT_BYTES_MAX: usize = 1024;

// --- signed documents ---

/// An envelope with its signatures, whatever it holds.
pub const ENVELOPE_BYTES_MAX: usize = 1 << 20;
/// Signatures in one envelope: more than any sensible threshold.
pub const SIGNATURES_MAX: usize = 16;
/// Keys of one role.
pub const ROLE_KEYS_MAX: usize = 64;
/// A root document.
pub const ROOT_BYTES_MAX: usize = 256 << 10;
/// Root documents in a chain: a host that was off for years still walks it in a second.
pub const ROOT_CHAIN_MAX: usize = 1024;
/// An order, a group, a release, a token, a member certificate.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// A host's record. The longest part is its list of accusations.
pub const RECORD_BYTES_MAX: usize = 16 << 10;
/// A slot request, a slot return, a receipt.
pub const SLOT_DOCUMENT_BYTES_MAX: usize = 16 << 10;
/// Voters of a fleet.
pub const VOTERS_MAX: usize = 7;
/// Lists of voters that follow each other: at one a week, twenty years of them.
pub const VOTER_LISTS_MAX: usize = 1024;
/// So few changes of voters are left that people should hear of it: at one a week, five years of them.
pub const VOTER_CHANGES_FEW: usize = 256;
/// Lists of voters in one message, and in what an executor is asked: the rest comes with the next.
pub const VOTER_LISTS_PER_MESSAGE_MAX: usize = 64;
/// How long a group may ask its hosts to be healthy before a slot passes on; CodeDeploy's cap on one
/// lifecycle event.
pub const MINIMUM_HEALTHY_SECONDS_MAX: u32 = 3600;
/// Waves of a deployment configuration: more than anybody keeps an overview of.
pub const WAVES_MAX: usize = 16;
/// How long a deployment may bake after a canary or a zone; AWS's longest wait before it reroutes.
pub const BAKE_SECONDS_MAX: u32 = 48 * 3600;
/// The deadline for one lifecycle event; CodeDeploy's cap on it.
pub const EVENT_DEADLINE_SECONDS_MAX: u32 = 3600;
/// The deadline for a whole deployment. AWS ends one after twelve hours; one that bakes takes longer.
pub const DEPLOYMENT_DEADLINE_SECONDS_MAX: u32 = 14 * 86_400;
/// Deployments of a group that wait for their turn: a queue that is longer is a pipeline gone wrong.
pub const QUEUED_DEPLOYMENTS_MAX: usize = 8;
/// Deployment groups that one host may be in, so that its record stays small.
pub const GROUPS_PER_HOST_MAX: usize = 16;
/// Addresses in a host's record.
pub const ADDRESSES_MAX: usize = 8;

// --- revisions ---

/// A manifest: 200,000 files in 1.5 million chunks would not fit; a 20 GiB revision does.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// Files, directories and symlinks in a revision.
pub const REVISION_ENTRIES_MAX: usize = 200_000;
/// Raw bytes in a revision.
pub const REVISION_BYTES_MAX: u64 = 64 << 30;
/// A path in a revision; Linux's PATH_MAX.
pub const PATH_BYTES_MAX: usize = 4096;
/// One component of a path; Linux's NAME_MAX.
pub const PATH_COMPONENT_BYTES_MAX: usize = 255;
/// Components in a path.
pub const PATH_DEPTH_MAX: usize = 32;
/// Symbolic links that are followed on the way to one file; Linux's own limit.
pub const SYMLINK_HOPS_MAX: u32 = 40;
/// A file's time of change: the end of the year 9999, so that every time can be shown and set.
pub const FILE_TIME_SECONDS_MAX: u64 = 253_402_300_799;
/// Smallest, average and largest chunk that FastCDC cuts.
pub const CHUNK_BYTES_MIN: u32 = 16 << 10;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_AVG: u32 = 64 << 10;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_MAX: u32 = 256 << 10;
/// Raw bytes that one frame may hold: one chunk, or a run of small ones.
pub const FRAME_RAW_BYTES_MAX: usize = 256 << 10;
/// A compressed frame on the wire: zstd's bound for incompressible input, rounded up.
pub const FRAME_BYTES_MAX: usize = (256 << 10) + (8 << 10);
/// An appspec file, before it is parsed.
pub const APPSPEC_BYTES_MAX: usize = 256 << 10;
/// Scripts over all lifecycle events of an appspec.
pub const HOOK_SCRIPTS_MAX: usize = 64;
/// `files` entries of an appspec.
pub const FILE_MAPPINGS_MAX: usize = 1024;
/// `permissions` entries of an appspec.
pub const PERMISSIONS_MAX: usize = 1024;
/// Patterns in the `except` of one `permissions` entry.
pub const EXCEPT_PATTERNS_MAX: usize = 256;
/// Entries in the `acls` of one `permissions` entry: more than fit into a file's attribute.
pub const ACL_ENTRIES_MAX: usize = 64;
/// The name of a user or group of the host; the longest that its tools take.
pub const ACCOUNT_BYTES_MAX: usize = 255;
/// Containers within each other in an appspec file. The deepest field is at five.
pub const APPSPEC_DEPTH_MAX: usize = 16;
/// Values in an appspec file, those that aliases repeat included: room for every other limit.
pub const APPSPEC_NODES_MAX: usize = 50_000;
/// A script's timeout; twelve hours, the service's cap on a whole deployment.
pub const HOOK_TIMEOUT_MAX: Duration = Duration::from_secs(12 * 3600);

// --- swarm ---

/// Peers with which a host shares what it holds: those of the overlay and their guests fit. A voter has
/// links to more, and they find each other.
pub const SWARM_PEERS_MAX: usize = 32;
/// Links beside these of which it is known what they hold, so that one of them can take a place that
/// becomes free. Those of even more peers are told what is here in full, and served, and nothing is asked of them.
pub const SWARM_SPARES_MAX: usize = 256;
/// A neighbour that gave nothing and asked for nothing in this time, and is at work on nothing, makes way for a
/// spare link.
pub const SWARM_IDLE_MAX: Duration = Duration::from_secs(2);
/// Revisions that take part in the swarm at a time: a bitmap of each peer is kept for each.
pub const SWARM_REVISIONS_MAX: usize = 64;
/// Revisions beyond these, of which peers are told only that they can be had.
pub const SWARM_SHELVED_MAX: usize = 4096;
/// Revisions that one message tells of: as many as a host can have.
pub const HOLDINGS_PER_HAVE_MAX: usize = SWARM_REVISIONS_MAX + SWARM_SHELVED_MAX;
/// A revision that peers lack and that none of them asked for in this time makes way for another one.
pub const SWARM_REVISION_IDLE_MAX: Duration = Duration::from_secs(60);
/// Frames that a host asks for at a time, whatever its link: their answers together are under 17 MiB.
pub const FETCHES_MAX: usize = 64;
/// Fewer are not enough to keep several peers busy.
pub const FETCHES_MIN: usize = 4;
/// Frames that are asked of one peer at a time, where there is no other; where there are, they share.
pub const FETCHES_PER_PEER_MAX: usize = 16;
/// Frames under way that wait somewhere rather than travel, from which on more do not help: each host's
/// queue is what every frame behind it waits for, on each hop.
pub const FETCHES_WAITING_MAX: usize = 8;
/// How long answers may take before fewer frames are asked for: what is under way is then what the link
/// carries in this time.
pub const FETCH_DELAY_MAX: Duration = Duration::from_millis(150);
/// Silence after which a frame is asked of another peer as well, where answers are quick.
pub const FETCH_OVERDUE_AFTER_MIN: Duration = Duration::from_millis(600);
/// The same, where nobody has answered yet.
pub const FETCH_OVERDUE_AFTER_FIRST: Duration = Duration::from_secs(2);
/// How long a peer that fails again and again is left alone.
pub const FETCH_REST_MAX: Duration = Duration::from_secs(60);
/// Frames of one revision in one message that says they have come.
pub const FRAMES_PER_HAVE_MAX: usize = 4096;
/// Time between two such messages to one peer: they take about a hundredth of what frames take.
pub const HAVE_EVERY: Duration = Duration::from_millis(20);
/// What peers say of revisions that are not open here: bitmaps of eight million frames.
pub const HOLDINGS_BYTES_PER_PEER_MAX: usize = 1 << 20;
/// The same of a peer that is no neighbour: 16 MiB for all of them.
pub const HOLDINGS_BYTES_PER_SPARE_MAX: usize = 64 << 10;
/// What peers have said and the swarm has not heard yet. Past that, a peer that says more than its part
/// loses its connection, and begins anew; three hundred that do so together fill six times as much.
pub const SWARM_INBOX_BYTES_MAX: usize = 8 << 20;
/// Frames that one peer may wait for at this host; more is told to be too much.
pub const SERVES_PER_PEER_MAX: usize = 16;
/// Frames that peers may wait for until one that is no neighbour is told that it is too much.
pub const SERVES_WAITING_MAX: usize = 512;
/// Frames that are read and on their way out at a time. As many again may be stuck.
pub const SERVES_MAX: usize = 8;
/// The same to one peer: the next is read while one is written.
pub const SERVES_TO_PEER_MAX: usize = 2;
/// After this long a frame that a peer does not take in keeps no other peer waiting.
pub const SERVE_PATIENCE: Duration = Duration::from_secs(2);
/// A peer gets a revision so many times, and once more for each hour: a machine that is installed anew
/// needs it again, and one that asks for everything in a loop costs little.
pub const SERVED_COPIES_MAX: u64 = 4;
/// Frames that a host shows to each peer at a time while it sends each frame to one peer first: the
/// next is there to be asked for when one comes.
pub const SHOWN_PER_PEER_MIN: usize = 2;
/// The same where the way is long, or there are few peers.
pub const SHOWN_PER_PEER_MAX: usize = FETCHES_PER_PEER_MAX;
/// A frame that is not asked for in this time is shown to another peer, where others ask at once.
pub const SHOWN_PATIENCE_MIN: Duration = Duration::from_millis(200);
/// The same where nobody is quick.
pub const SHOWN_PATIENCE_MAX: Duration = Duration::from_secs(2);
/// Frames are shown to everybody if so long none went out that nobody else has.
pub const PREMIERE_DULL_AFTER: Duration = Duration::from_secs(10);

// --- hooks ---

/// What the log of one deployment on a host keeps: of all its scripts together, and of what they left running.
pub const HOOK_OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// The end of a failed hook's output that travels with its outcome; AWS's own figure.
pub const LOG_TAIL_BYTES_MAX: usize = 2048;
/// Bytes of a deployment's log in one answer: a reader that is behind asks again at once.
pub const LOG_PART_BYTES_MAX: usize = 256 << 10;
/// What whoever reads believes a log to have: its own limit, and the word of each process that met it.
pub const LOG_BYTES_MAX: u64 = HOOK_OUTPUT_BYTES_MAX + (1 << 20);
/// A line of a log that is handed on in one piece.
pub const LOG_LINE_BYTES_MAX: usize = 64 << 10;
/// Hosts that are asked for their logs at a time by one who follows a deployment.
pub const LOG_ASKS_MAX: usize = 8;
/// Time between two looks at a log that may grow: people take it for at once.
pub const LOG_LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time until a host that gave no part of its log is asked again.
pub const LOG_ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Failures in a row after which the log of a host is given up that writes no more.
pub const LOG_FAILURES_MAX: u32 = 2;
/// Parts of logs that a host reads for others at a time: most connections of its executor stay free.
pub const LOG_READS_MAX: usize = 8;
/// The same for one peer: each person there who looks on has one under way at most.
pub const LOG_READS_PER_PEER_MAX: usize = 4;
/// Between the polite and the final signal to a hook that ran out of time.
pub const HOOK_KILL_GRACE: Duration = Duration::from_secs(5);

// --- mesh ---

/// One message on a link. A batch of ledger entries is the largest.
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// What a peer may send before it is admitted: its certificate with token and receipts, and lists of
/// voters of less than two kilobytes each.
pub const HELLO_BYTES_MAX: usize = 128 << 10;
/// How long admission may take, from the first byte to the last.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of messages that wait for a slow peer; the link is closed when they do not fit.
pub const LINK_QUEUE_BYTES_MAX: usize = 8 << 20;
/// A request or a reply between two daemons.
pub const CALL_BYTES_MAX: usize = 2 << 20;
/// Calls that one peer may have open at another.
pub const CALLS_PER_PEER_MAX: usize = 64;
/// How long a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Hosts of a fleet that this version is built for.
pub const HOSTS_MAX: usize = 10_000;
/// Fleets up to this size are a full mesh.
pub const FULL_MESH_HOSTS_MAX: usize = 12;

// --- failure verdicts ---

/// A link is proved alive by any frame; an empty one is sent after this much silence.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Silence on all links to a host after which a neighbour accuses it: three heartbeats.
pub const ACCUSE_AFTER: Duration = Duration::from_secs(3);
/// How long accusations by enough hosts stand before the verdict.
pub const VERDICT_AFTER: Duration = Duration::from_secs(5);
/// How long an accusation by too few hosts stands before the verdict.
pub const VERDICT_ALONE_AFTER: Duration = Duration::from_secs(30);
/// Hosts that one record accuses, so that it stays small: more than fail at once in a full mesh.
pub const ACCUSATIONS_MAX: usize = 64;
/// Accusers that are enough, where there are that many.
pub const ACCUSERS_ENOUGH: usize = 3;
/// How sick a host may find itself; with each step it bears silence three seconds longer.
pub const HEALTH_MAX: u32 = 8;
/// From here on it accuses nobody: it was late, or wrong, three times in half a minute.
pub const HEALTH_MUTED_FROM: u32 = 3;
/// Time without a mishap that takes one step back.
pub const HEALTH_MENDS_EVERY: Duration = Duration::from_secs(10);

// --- voters ---

/// A write that takes longer to become durable than this is slow: a voter with many of those holds up all.
pub const WRITE_SLOW_FROM: Duration = Duration::from_millis(20);
/// Writes by which a disk is judged.
pub const WRITES_WATCHED: usize = 128;

// --- records on their way ---

/// Time between two offers on a link: five hops of it are a second.
pub const SPREAD_EVERY: Duration = Duration::from_millis(200);
/// Offers on a link in a second.
pub const SPREADS_PER_SECOND: usize = 1000 / SPREAD_EVERY.as_millis() as usize;
/// Time between two comparisons with a neighbour; of what got lost most is found by the first.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(10);
/// A record that was asked for and did not come is asked of another peer after this: five long round
/// trips.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Records that are asked for on one link at a time: what it carries before they are asked of another.
pub const ASKS_PER_LINK_MAX: usize = 64;
/// Records in one message: even the longest fit.
pub const RECORDS_PER_MESSAGE_MAX: usize = 64;
/// What a link carries of records, so that a fleet of news is no burden on production traffic.
pub const LINK_BYTES_PER_SECOND: usize = 64 << 10;
/// What a host sends of records and offers on all its links together: with questions it is 256 KB.
pub const HOST_BYTES_PER_SECOND: usize = 240 << 10;
/// What a host, or a link, that was idle sends at once.
pub const BURST_BYTES: usize = HOST_BYTES_PER_SECOND / 4;
/// Records that a host asks for between two offers. A record takes half a kilobyte, and a third of what may
/// come to a host in a second is left for what comes unasked.
pub const ASKS_PER_TICK: usize = HOST_BYTES_PER_SECOND / 3 * 2 / 512 / SPREADS_PER_SECOND;
/// One host's records are pushed this often, and offered like others between.
pub const URGENT_EVERY: Duration = Duration::from_secs(1);
/// A host that only gets on with what it does says so no oftener than this.
pub const PROGRESS_EVERY_MIN: Duration = Duration::from_secs(1);
/// Nor so often that all hosts of the fleet together would say it more often in a second: with what each
/// record costs a host on its way that is 38 KB a second, while all of ten thousand fetch a release.
pub const PROGRESS_PER_SECOND_MAX: u32 = 100;
/// A host that is well is heard of every second, and one that is at work gets on: who has done neither for
/// so long is one that somebody has to look after.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);
/// A host that has nothing new to say signs its record again after this, give or take half.
pub const RECORD_REFRESH_EVERY: Duration = Duration::from_secs(3600);
/// Versions that one message may name: all hosts of the largest fleet.
pub const VERSIONS_PER_MESSAGE_MAX: usize = HOSTS_MAX;

// --- links ---

/// First and longest time between two attempts to reach a host that ought to be connected.
pub const DIAL_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// See [`DIAL_BACKOFF_MIN`]: a partition that ends is bridged within this.
pub const DIAL_BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Time between two attempts to reach some host that is no neighbour: parts of a fleet that have lost
/// each other find together by it.
pub const EXPLORE_EVERY: Duration = Duration::from_secs(30);
/// A link that neither side needs is closed after this.
pub const LINK_UNUSED_MAX: Duration = Duration::from_secs(60);
/// Peers that say they count this host as a neighbour, beyond its own: each costs offers.
pub const GOSSIP_GUESTS_MAX: usize = 32;
/// Voters that a host is connected to: one feeds it, the other takes its place where it is gone or says
/// nothing. Five share ten thousand hosts.
pub const VOTERS_FOLLOWED: usize = 2;

// --- coordination ---

/// What a host hands in and does not find in the ledger is handed in again after this, and then after
/// longer and longer.
pub const REPEAT_AFTER_MIN: Duration = Duration::from_millis(200);
/// See [`REPEAT_AFTER_MIN`]: give or take half, so that hosts which wait together do not speak together.
pub const REPEAT_AFTER_MAX: Duration = Duration::from_secs(30);
/// Length of one consensus tick; heartbeats take two, elections ten to twenty.
pub const TICK: Duration = Duration::from_millis(100);
/// Terms rise by elections: nobody has seen this many more of them than we have.
pub const TERM_LEAP_MAX: u64 = 1 << 20;
/// No term is later. One voter that lies can lift the terms of all others by a leap again and again, and
/// whoever refuses what is agreed on then hears nothing any more: a thousand leaps a second end here after
/// thirty years.
pub const TERM_MAX: u64 = 1 << 60;
/// Age of receipts, by the host's own clock, at which it may still begin.
pub const RECEIPT_AGE_MAX: Duration = Duration::from_secs(30);
/// Between an order to release a slot and the slot's being free: twice the age that receipts may have,
/// so that those which the holder has got are old by then even if its clock runs at half the rate.
pub const RELEASE_HOLD_OFF: Duration = Duration::from_secs(60);
/// Entries of the log between two snapshots.
pub const SNAPSHOT_EVERY_ENTRIES: u64 = 10_000;
/// The ledger's state in one piece: ten thousand hosts with certificates take a tenth of it.
pub const SNAPSHOT_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a snapshot in one message.
pub const SNAPSHOT_PART_BYTES: usize = 512 << 10;
/// Bytes of the log between two snapshots, where entries are long.
pub const SNAPSHOT_EVERY_BYTES: usize = 16 << 20;
/// Submissions of one host that are under way, its own or passed on.
pub const SUBMISSIONS_MAX: usize = 1024;
/// Entries that one message may carry.
pub const ENTRIES_PER_MESSAGE_MAX: usize = 256;
/// An entry of the ledger with its evidence.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Deployment groups of a fleet. CodeDeploy has as many of one application.
pub const GROUPS_MAX: usize = 1000;
/// What all groups may take: an eighth of a snapshot, in which each is written down twice.
pub const GROUPS_BYTES_MAX: usize = 8 << 20;
/// Releases of one application that are kept beside those that are needed: more than anybody goes back by.
pub const RELEASES_KEPT_PER_APPLICATION: usize = 200;
/// What all releases may take: a quarter of a snapshot, in which each is written down twice.
pub const RELEASES_BYTES_MAX: usize = 16 << 20;
/// Deployments whose report is kept, per group.
pub const DEPLOYMENTS_KEPT_PER_GROUP: usize = 50;
/// What is kept of deployments that are over, in all groups together, beside the few reports that
/// each group keeps always: a quarter of what a snapshot may be.
pub const REPORTS_BYTES_MAX: usize = 32 << 20;
/// Deployments of a group that may be over while hosts that are away hold slots of them. All that those need
/// when they come back is kept; the next deployment waits for them, or for an operator.
pub const DEPLOYMENTS_HELD_MAX: usize = 8;
/// Orders of a group that are kept beside those that may still be followed and what came after them. A
/// host that was away for longer takes the chain up where it begins then.
pub const ORDERS_KEPT_PER_GROUP: usize = 8;
/// What all orders of a group take that may still have to be followed: a host that was away gets them in one
/// request to its executor, with room for the stops that are taken always.
pub const ORDERS_BYTES_PER_GROUP_MAX: usize = 512 << 10;
/// The same for all groups: an eighth of a snapshot.
pub const ORDERS_BYTES_MAX: usize = 16 << 20;
/// Stops of a group that a host remembers beside those of deployments that go on. Older ones name what is over.
pub const STOPS_KEPT_PER_GROUP: usize = 2 * ORDERS_KEPT_PER_GROUP;

// --- executor ---

/// A request to the executor or its answer.
pub const EXECUTOR_FRAME_BYTES_MAX: usize = 1 << 20;
/// A deployment of one host alone, as it is handed over. The longest part is the events of its own.
pub const LOCAL_DEPLOYMENT_BYTES_MAX: usize = 1 << 20;
/// What is heard of it at once. The longest part is the end of a log.
pub const LOCAL_NEWS_BYTES_MAX: usize = 64 << 10;
/// Deployments of a group that a host keeps, the newest included: on most file systems each is a
/// whole copy of its revision.
pub const REVISIONS_KEPT_MAX: u32 = 100;

const _: () = {
    assert!(TERM_LEAP_MAX * 1000 * 86_400 * 365 * 30 < TERM_MAX);
    assert!(RELEASE_HOLD_OFF.as_secs() >= 2 * RECEIPT_AGE_MAX.as_secs());
    assert!(FRAME_BYTES_MAX + 1024 < CALL_BYTES_MAX);
    assert!(LOG_PART_BYTES_MAX + 1024 < EXECUTOR_FRAME_BYTES_MAX);
    assert!(LOG_PART_BYTES_MAX + 1024 < CALL_BYTES_MAX);
    assert!(FETCHES_PER_PEER_MAX <= SERVES_PER_PEER_MAX);
    assert!(SERVES_PER_PEER_MAX <= CALLS_PER_PEER_MAX);
    assert!(FETCHES_MIN <= FETCHES_MAX);
    assert!(FRAMES_PER_HAVE_MAX * 8 < MESSAGE_BYTES_MAX);
    assert!(SHOWN_PER_PEER_MAX <= FRAMES_PER_HAVE_MAX);
    assert!(SWARM_SHELVED_MAX * 128 < MESSAGE_BYTES_MAX);
    assert!(SERVES_PER_PEER_MAX * SWARM_PEERS_MAX <= SERVES_WAITING_MAX);
    assert!(CHUNK_BYTES_MAX as usize <= FRAME_RAW_BYTES_MAX);
    assert!(DOCUMENT_BYTES_MAX * 2 < ENTRY_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX < MESSAGE_BYTES_MAX);
    assert!(ROOT_BYTES_MAX < ENVELOPE_BYTES_MAX);
    // Places on the rings of the overlay are of this size.
    assert!(HOSTS_MAX <= u16::MAX as usize);
    assert!(REPORTS_BYTES_MAX as u64 <= SNAPSHOT_BYTES_MAX / 4);
    assert!(
        (2 * (GROUPS_BYTES_MAX + RELEASES_BYTES_MAX) + ORDERS_BYTES_MAX + REPORTS_BYTES_MAX) as u64
            <= SNAPSHOT_BYTES_MAX * 7 / 8
    );
    assert!(SNAPSHOT_PART_BYTES + 1024 < MESSAGE_BYTES_MAX);
    assert!(RECORDS_PER_MESSAGE_MAX * (RECORD_BYTES_MAX + 2048) < MESSAGE_BYTES_MAX);
    assert!(VERSIONS_PER_MESSAGE_MAX * 64 < MESSAGE_BYTES_MAX);
};
