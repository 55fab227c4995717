//! What a seed means: the fleet, its weather, what people do with it, and what breaks when.
//!
//! Everything is drawn before the first event. The faults are a list, so that a failing run can be
//! made smaller by leaving some of them out.

use std::{fmt, time::Duration};

use groundswell_protocol::{
    consensus::VoterPolicy,
    limits::ORDERS_KEPT_PER_GROUP,
    rollout::{Canary, CanaryHosts, DeploymentConfiguration, MinimumHealthy, Zones},
};

use crate::{dice::Dice, founding::labels_of, large};

/// Microseconds of true time.
pub type Micros = u64;

/// One second of true time.
pub const SECOND: Micros = 1_000_000;

/// A run, before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What all of it was drawn from.
    pub seed: u64,
    /// Every host that will ever be, late ones included.
    pub hosts: Vec<HostPlan>,
    /// How many of the first hosts vote.
    pub voters: usize,
    /// It is larger than any that is drawn: hosts that are there from the first second on were admitted
    /// long ago.
    pub is_large: bool,
    /// Certificates name the zone.
    pub zoned: bool,
    /// The deployment groups that exist at some time.
    pub groups: Vec<GroupPlan>,
    /// How long messages take.
    pub delay: DelayLaw,
    /// Entries of the log between two snapshots.
    pub snapshot_every: u64,
    /// When voters are replaced.
    pub voter_policy: VoterPolicy,
    /// A member that says again what it has heard, to whom it was not said.
    pub parrot: Option<usize>,
    /// Which member makes things up.
    pub forger: Option<Forger>,
    /// In so many of a thousand connections a second one is made beside the first.
    pub second_connection_permille: u64,
    /// How long a question to the executor and its answer are under way, at most.
    pub executor_delay_max: Micros,
    /// How long a step of a lifecycle takes at most.
    pub step_max: Micros,
    /// A stage that fails, of a thousand.
    pub stage_fails_permille: u64,
    /// A host on which the executor will not begin with a release, of a thousand.
    pub stubborn_permille: u64,
    /// A restoration that fails, of a thousand.
    pub restore_fails_permille: u64,
    /// What people do.
    pub chores: Vec<Chore>,
    /// What breaks.
    pub faults: Vec<Fault>,
    /// When everything is mended.
    pub heal_at: Micros,
    /// Whether mending restarts the hosts that run.
    pub heal_restarts: bool,
}

/// One host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// When it is first switched on.
    pub joins_at: Micros,
    /// How far its clock is off, in parts of a million.
    pub clock_ppm: i64,
    /// What it adds to everything that it does, at most.
    pub sluggish: Micros,
    /// The label `a`.
    pub a: u8,
    /// The label `b`.
    pub b: u8,
    /// The zone that it stands in.
    pub zone: u8,
    /// It is what another one becomes that is installed anew: the same name and another key.
    pub replaces: Option<usize>,
}

/// One deployment group.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// Its name.
    pub name: String,
    /// The labels that select its hosts.
    pub filter: Vec<(&'static str, u8)>,
    /// Its terms at first.
    pub terms: Terms,
    /// How long health is watched.
    pub watch_seconds: u32,
}

/// What may change about a group.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The configuration.
    pub configuration: DeploymentConfiguration,
    /// How many hosts may fail.
    pub failure_budget: Option<u32>,
    /// Hosts that were away are brought to what the others run.
    pub catch_up: bool,
    /// So are new ones.
    pub deploy_to_new_hosts: bool,
}

/// How long a message takes.
#[derive(Clone, Debug)]
pub struct DelayLaw {
    /// At least.
    pub base: Micros,
    /// And up to this much more.
    pub spread: Micros,
    /// In so many of a thousand cases a packet was lost and sent again.
    pub tail_permille: u64,
    /// Which takes up to this long.
    pub tail_max: Micros,
}

/// Something that a person does, on whatever host is up.
#[derive(Clone, Debug)]
pub struct Chore {
    /// When.
    pub at: Micros,
    /// What.
    pub kind: ChoreKind,
}

/// What a person does.
#[derive(Clone, Debug)]
pub enum ChoreKind {
    /// Sets up a group, or changes it: its configuration, and maybe its filter.
    Group {
        /// Which.
        group: usize,
        /// Its new terms.
        terms: Box<Terms>,
        /// All hosts, whatever the filter was.
        widen: bool,
    },
    /// Deploys a new release.
    Deploy {
        /// Where.
        group: usize,
        /// Which hosts the release fails on.
        bad: Bad,
        /// Whether the last good release is named to go back to.
        fallback: bool,
        /// In place of the group's configuration.
        configuration: Option<Box<DeploymentConfiguration>>,
        /// It may wait for its turn.
        queue: bool,
        /// Hosts that run the release already are left alone.
        only_outdated: bool,
    },
    /// Stops what runs.
    Stop {
        /// Where.
        group: usize,
        /// Hosts that took the release are sent back.
        rollback: bool,
    },
    /// Pauses what runs, and resumes it after a while.
    Pause {
        /// Where.
        group: usize,
        /// After how long.
        lasts: Micros,
    },
    /// Lets go on what waits for a person.
    Resume {
        /// Where.
        group: usize,
    },
    /// Orders the way back to what ran before.
    Rollback {
        /// Where.
        group: usize,
    },
    /// Writes off a host that holds a slot.
    ReleaseSlot {
        /// Where.
        group: usize,
        /// It stands still for so long and is alive.
        stands_still: Option<Micros>,
    },
    /// The same of one whom they have their eyes on, once it is silent.
    GiveUp {
        /// Where.
        group: usize,
        /// The host.
        holder: usize,
        /// Its slot.
        token: u64,
    },
    /// Waives hosts that have not said what they hold since voters were lost: one that is away, and now and
    /// then another one, or for another loss.
    Waive,
    /// Removes a host from the fleet.
    Remove {
        /// Which.
        host: usize,
    },
    /// Installs a machine anew: what it was is gone.
    Install {
        /// What it becomes.
        host: usize,
    },
    /// Gives a host other labels.
    Relabel {
        /// Which.
        host: usize,
        /// The label `a`.
        a: u8,
        /// The label `b`.
        b: u8,
    },
    /// Lets nothing begin for a while.
    Freeze {
        /// Where.
        group: usize,
        /// For how long.
        lasts: Micros,
    },
    /// Ends that.
    Unfreeze {
        /// Where.
        group: usize,
    },
    /// Keeps a host for a while, if that is allowed.
    Drain {
        /// Which.
        host: usize,
        /// For how long.
        lasts: Micros,
    },
    /// Gives it back.
    Undrain {
        /// Which.
        host: usize,
    },
    /// Says in its certificate that a voter may vote no more: the one that leads, or any.
    VoteNoMore {
        /// The one that leads.
        leads: bool,
    },
    /// Gives an order that was given before.
    GiveAgain,
    /// Sits at the next host whose executor begins, and stops what it begins before its daemon has heard
    /// of that.
    StopAtBeginning,
    /// Does something at the moment when the next host gets its slot.
    AtGrant(Box<Self>),
}

/// Where a release fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Nowhere.
    Nowhere,
    /// Everywhere.
    Everywhere,
    /// On one host of so many.
    OneIn(u8),
}

/// Something that breaks.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When.
    pub at: Micros,
    /// For how long, where it ends.
    pub lasts: Micros,
    /// What.
    pub kind: FaultKind,
}

/// A member that makes things up.
#[derive(Clone, Copy, Debug)]
pub struct Forger {
    /// Which one.
    pub host: usize,
    /// It does nothing but tell one other, again and again, of records that nobody has, and goes on with that
    /// when everything else is mended.
    pub insists: bool,
}

/// What breaks.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// The daemon dies, and is started again.
    KillDaemon(usize),
    /// The daemon dies at the border of an output that it is about to perform.
    KillAt {
        /// The host.
        host: usize,
        /// Which kind of output.
        border: Border,
        /// How many of them pass before.
        skip: u32,
    },
    /// The executor dies, and is started again.
    KillExecutor(usize),
    /// The executor dies as soon as it has written a slot down, before it takes the first step.
    KillAtToken(usize),
    /// These hosts lose power.
    PowerLoss(Vec<usize>),
    /// The host does nothing for a while, and goes on as if nothing had been.
    Pause {
        /// The host.
        host: usize,
        /// Its executor as well: the machine stands still, not the daemon alone.
        whole: bool,
    },
    /// Nothing gets from the first ones to the second ones.
    OneWay(Vec<usize>, Vec<usize>),
    /// Nothing gets between these and all others.
    Split(Vec<usize>),
    /// Nothing gets between these two.
    Pair(usize, usize),
    /// The same again and again, with as much time between as it lasts.
    Flap {
        /// The one.
        one: usize,
        /// The other.
        other: usize,
        /// How often.
        times: u32,
    },
    /// Voters reach this one of them, and not each other.
    Star(usize),
    /// Voters reach the one before and the one after them in this order, and no other.
    Chain(Vec<usize>),
    /// Somebody has a host's key, and says in its name that nobody is heard of any more.
    Impostor(usize),
    /// A zone is cut off.
    ZoneCut(u8),
    /// All daemons are started again at once.
    RestartAll,
    /// Whoever holds a slot loses power.
    HoldersDie,
    /// The next host that gets a slot loses power: at once, or when it has begun.
    HolderDies {
        /// It has begun.
        begun: bool,
    },
    /// The next host that gets a slot, or begins with it, stands still.
    HolderPauses {
        /// It has begun.
        begun: bool,
    },
    /// The machine comes back with the disk that its daemon had when this began.
    PutBack {
        /// The host.
        host: usize,
        /// Its executor's disk as well, and so whatever it ran: the whole machine, if it has no slot then and now.
        whole: bool,
    },
    /// A bit flips in what the daemon has written down: it ends as often as it is started, until somebody
    /// puts back a copy that was made when this began.
    Rot(usize),
    /// Nothing can be written down on a host: its daemon ends, as often as it is started.
    DiskFails(usize),
    /// The same for its executor, whose files are elsewhere.
    ExecutorDiskFails(usize),
    /// Whatever the daemon writes down takes long, at most so long. It does nothing else meanwhile.
    SlowDisk {
        /// The host.
        host: usize,
        /// The longest.
        takes: Micros,
    },
    /// Whatever a host sends and is sent goes through a narrow wire, so many bytes a second. What does not
    /// fit any more breaks its link.
    Narrow {
        /// The host.
        host: usize,
        /// Bytes a second.
        rate: u64,
    },
    /// The hosts whose addresses everybody is given first lose power, and all others are started again.
    SeedsGone,
    /// The connection between these two breaks, and can be made again.
    Break(usize, usize),
    /// The wall clock jumps by so many seconds.
    WallJump(usize, i64),
    /// From now on a voter takes for agreed on what it alone may have, as if the library were wrong there.
    /// No host may be down too many for that.
    Deceived(usize),
    /// A majority of the voters is lost, with or without other hosts, and operators let the fleet go on
    /// without it.
    MajorityLost {
        /// They are only cut off, and go on among themselves.
        cut: bool,
        /// The fleet goes on with the newest ledger that is left, and not with any.
        newest: bool,
        /// How long it takes until operators are sure.
        recovers_after: Micros,
        /// Who is lost, and who votes then.
        draw: u64,
    },
}

/// The border of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// What is to be written is not.
    BeforePersist,
    /// It is, and nothing after it happens.
    AfterPersist,
    /// A message is not sent.
    BeforeSend,
    /// It is, and nothing after it happens.
    AfterSend,
    /// The executor is not asked.
    BeforeExecute,
    /// It is, and its answer finds nobody.
    AfterExecute,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = SECOND as f64;
        let (at, lasts) = (self.at as f64 / second, self.lasts as f64 / second);
        write!(f, "{at:9.3} s  {:?}, for {lasts:.3} s", self.kind)
    }
}

impl Plan {
    /// Draws a run of at most `hosts_max` hosts.
    pub fn draw(seed: u64, hosts_max: usize) -> Self {
        let mut dice = Dice::new(seed);
        let voters = *dice.pick(&[1, 3, 3, 3, 3, 5, 5, 7]);
        let size = match dice.between(0, 99) {
            0..=79 => dice.between(7, 12),
            80..=97 => dice.between(13, 24),
            _ => dice.between(25, DRAWN_MAX as u64),
        };
        let size = match usize::try_from(size).unwrap_or(7) {
            // Whoever asks for more than any seed draws wants a fleet of that size.
            _ if hosts_max > DRAWN_MAX => hosts_max,
            size => size.min(hosts_max.max(voters)),
        };
        let habits = Habits::draw(&mut dice.fork(5));
        let heal_at = match habits.knows(Habit::ReleaseSlot) {
            true => dice.between(120, 170) * SECOND,
            false => dice.between(40, 110) * SECOND,
        };
        let hosts = draw_hosts(&mut dice.fork(1), size, voters, heal_at, &habits);
        let groups = draw_groups(&mut dice.fork(2), &habits);
        let mut chores = draw_chores(&mut dice.fork(3), &groups, &hosts, voters, heal_at, &habits);
        let mut faults = draw_faults(&mut dice.fork(4), &hosts[..size], voters, heal_at);
        faults.extend(draw_put_back(&mut dice.fork(7), size, voters, heal_at));
        faults.extend(draw_more_faults(&mut Dice::new(seed ^ 0x5107), size, voters, heal_at));
        let dead = draw_dead_holders(&mut Dice::new(seed ^ 0xdead), groups.len(), heal_at);
        let (dead, stops): (Vec<_>, Vec<_>) = dead.into_iter().unzip();
        faults.extend(dead);
        chores.extend(stops.into_iter().flatten());
        chores.extend(draw_stops_at_beginning(&mut Dice::new(seed ^ 0x570b), heal_at));
        chores.extend(draw_unfit_voters(&mut Dice::new(seed ^ 0x0f17), heal_at));
        let forgets =
            |fault: &Fault| matches!(fault.kind, FaultKind::PutBack { .. } | FaultKind::Rot(_));
        let mut heal_at = heal_at;
        if !faults.iter().any(forgets) {
            let loss = draw_loss(&mut Dice::new(seed ^ 0x105e), heal_at);
            // Whoever is lost for long is back before everything is mended.
            if let Some(loss) = loss.as_ref().filter(|loss| loss.lasts >= WAIVED_AFTER) {
                heal_at = heal_at.max(loss.at + loss.lasts + 12 * SECOND);
            }
            faults.extend(
                loss.or_else(|| draw_deceived(&mut Dice::new(seed ^ 0xdece), voters, heal_at)),
            );
        }
        let is_whole = faults.iter().all(|fault| {
            !matches!(fault.kind, FaultKind::MajorityLost { .. } | FaultKind::Deceived(_))
        });
        if let Some(split) = draw_hours(&mut Dice::new(seed ^ 0x4005), size, heal_at)
            && is_whole
        {
            heal_at = split.at + split.lasts + 20 * SECOND;
            chores.extend(draw_night(&mut Dice::new(seed ^ 0x9147), groups.len(), &split, &habits));
            faults.push(split);
        }
        if let Some(pause) = draw_long_pause(&mut Dice::new(seed ^ 0x5111), size, voters, heal_at)
            && is_whole
        {
            heal_at = heal_at.max(pause.at + pause.lasts + 60 * SECOND);
            chores.extend(draw_night(&mut Dice::new(seed ^ 0x9148), groups.len(), &pause, &habits));
            faults.push(pause);
        }
        let often = |dice: &mut Dice, then: u64| if dice.permille(400) { then } else { 0 };
        let mut plan = Self {
            seed,
            voters,
            is_large: false,
            zoned: habits.knows(Habit::Zones),
            groups,
            delay: DelayLaw {
                base: *dice.pick(&[100, 300, 1_000, 20_000]),
                spread: *dice.pick(&[200, 2_000, 20_000, 200_000]),
                tail_permille: *dice.pick(&[0, 1, 10, 100, 400]),
                tail_max: *dice.pick(&[200_000, 1_000_000, 5_000_000]),
            },
            snapshot_every: *dice.pick(&[8, 15, 40, 10_000]),
            voter_policy: draw_voter_policy(&mut dice.fork(5)),
            parrot: dice.permille(500).then(|| dice.index(size)),
            forger: draw_forger(&mut Dice::new(seed ^ 0xf0c9), size),
            second_connection_permille: *dice.pick(&[0, 200, 700]),
            executor_delay_max: *dice.pick(&[1_000, 20_000, 20_000, 400_000]),
            step_max: *dice.pick(&[50_000, 300_000, 1_000_000]),
            stage_fails_permille: often(&mut dice, 50),
            stubborn_permille: often(&mut dice, 150),
            restore_fails_permille: often(&mut dice, 300),
            hosts,
            chores,
            faults,
            heal_at,
            heal_restarts: dice.permille(400),
        };
        if plan.faults.iter().any(|fault| matches!(fault.kind, FaultKind::Deceived(_))) {
            // What others take over from it as a snapshot they believe: one voter is wrong, not several.
            plan.snapshot_every = u64::MAX;
            plan.voter_policy = VoterPolicy::after(Duration::from_secs(24 * 3600));
        }
        if size > DRAWN_MAX {
            large::fit(&mut plan);
        }
        plan
    }
}

/// In three fleets of ten a member makes things up.
fn draw_forger(dice: &mut Dice, size: usize) -> Option<Forger> {
    let host = dice.index(size);
    dice.permille(300).then(|| Forger { host, insists: dice.permille(300) })
}

fn draw_voter_policy(dice: &mut Dice) -> VoterPolicy {
    let mut seconds = |least, most| Duration::from_secs(dice.between(least, most));
    VoterPolicy {
        silent: seconds(2, 15),
        unfit: seconds(2, 15),
        stable: seconds(1, 5),
        pace: seconds(1, 5),
        zone_pace: seconds(0, 10),
    }
}

/// What the people of a run do beside deploying, stopping and changing groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    Pause,
    Rollback,
    ReleaseSlot,
    Remove,
    Install,
    Relabel,
    Drain,
    Freeze,
    GiveAgain,
    Queue,
    Outdated,
    CatchUp,
    Budget,
    Deadline,
    Canary,
    Waves,
    Zones,
}

/// Each seed has its own mixture here as well.
struct Habits(Vec<Habit>);

impl Habits {
    fn draw(dice: &mut Dice) -> Self {
        let all = [
            Habit::Pause,
            Habit::Rollback,
            Habit::ReleaseSlot,
            Habit::Remove,
            Habit::Install,
            Habit::Relabel,
            Habit::Drain,
            Habit::Freeze,
            Habit::GiveAgain,
            Habit::Queue,
            Habit::Outdated,
            Habit::CatchUp,
            Habit::Budget,
            Habit::Deadline,
            Habit::Canary,
            Habit::Waves,
            Habit::Zones,
        ];
        Self(all.into_iter().filter(|_| dice.permille(350)).collect())
    }

    fn knows(&self, habit: Habit) -> bool {
        self.0.contains(&habit)
    }

    fn sometimes(&self, dice: &mut Dice, habit: Habit) -> bool {
        self.knows(habit) && dice.permille(500)
    }
}

/// Hosts of the largest fleet that a seed draws by itself.
pub const DRAWN_MAX: usize = 60;

fn draw_hosts(
    dice: &mut Dice,
    size: usize,
    voters: usize,
    heal_at: Micros,
    habits: &Habits,
) -> Vec<HostPlan> {
    let (late, drift, slow) = (dice.permille(500), dice.permille(500), dice.permille(300));
    let zones = dice.between(1, 3);
    let small = |number: u64| u8::try_from(number).unwrap_or(0);
    let draw = |index: usize| HostPlan {
        joins_at: match index {
            _ if index < voters || !late || !dice.permille(250) => dice.between(0, SECOND),
            _ => dice.between(0, heal_at * 9 / 10),
        },
        clock_ppm: match drift {
            true => i64::try_from(dice.between(0, 100_000)).unwrap_or(0) - 50_000,
            false => 0,
        },
        sluggish: if slow && dice.permille(200) { dice.between(1_000, 400_000) } else { 0 },
        a: small(dice.between(0, 1)),
        b: small(dice.between(0, 2)),
        zone: small(dice.between(0, zones - 1)),
        replaces: None,
    };
    let mut hosts: Vec<_> = (0..size).map(draw).collect();
    if habits.knows(Habit::Install) {
        for _ in 0..dice.between(1, 3) {
            let old = match voters > 1 && dice.permille(300) {
                true => dice.index(voters),
                false if voters < size => voters + dice.index(size - voters),
                false => break,
            };
            if hosts.iter().all(|host| host.replaces != Some(old)) {
                hosts.push(HostPlan { replaces: Some(old), ..hosts[old].clone() });
            }
        }
    }
    hosts
}

fn draw_groups(dice: &mut Dice, habits: &Habits) -> Vec<GroupPlan> {
    let filters: [&[(&str, u8)]; 5] =
        [&[], &[("a", 0)], &[("b", 1)], &[("a", 1)], &[("a", 0), ("b", 0)]];
    let count = usize::try_from(dice.between(1, 4)).unwrap_or(1);
    let chosen = dice.some(count, filters.len());
    let group = |(number, index): (usize, usize)| GroupPlan {
        name: format!("group-{number}"),
        filter: filters[index].to_vec(),
        terms: draw_terms(dice, habits),
        watch_seconds: u32::try_from(dice.between(0, 2)).unwrap_or(0),
    };
    chosen.into_iter().enumerate().map(group).collect()
}

fn draw_terms(dice: &mut Dice, habits: &Habits) -> Terms {
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    let budget = habits.sometimes(dice, Habit::Budget);
    Terms {
        configuration: draw_configuration(dice, habits),
        failure_budget: budget.then(|| number(dice.between(0, 2))),
        catch_up: habits.sometimes(dice, Habit::CatchUp),
        deploy_to_new_hosts: habits.sometimes(dice, Habit::CatchUp),
    }
}

fn draw_configuration(dice: &mut Dice, habits: &Habits) -> DeploymentConfiguration {
    let mut drawn = DeploymentConfiguration::from(draw_floor(dice));
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    if habits.sometimes(dice, Habit::Canary) {
        let pause = dice.permille(400);
        let hosts = match dice.permille(600) {
            true => CanaryHosts::Count(number(dice.between(1, 2))),
            false => CanaryHosts::Labels(labels_of(&[("b", 2)])),
        };
        let bake_seconds = if pause { 0 } else { number(dice.between(0, 4)) };
        drawn.canary = Some(Canary { hosts, pause, bake_seconds });
    }
    if habits.sometimes(dice, Habit::Waves) {
        drawn.waves = vec![labels_of(&[("b", 1)]), labels_of(&[("a", 0)])];
        drawn.waves.truncate(1 + dice.index(2));
    }
    if habits.sometimes(dice, Habit::Zones) {
        let floors = [
            MinimumHealthy::AllAtOnce,
            MinimumHealthy::HalfAtATime,
            MinimumHealthy::OneAtATime,
            MinimumHealthy::OneAtATime,
            MinimumHealthy::HostCount(1),
            MinimumHealthy::HostCount(2),
            MinimumHealthy::FleetPercent(50),
            MinimumHealthy::FleetPercent(75),
        ];
        drawn.zones = Some(Zones {
            bake_seconds: number(dice.between(0, 2)),
            minimum_healthy: *dice.pick(&floors),
            first_bake_seconds: number(dice.between(0, 4)),
        });
    }
    if habits.sometimes(dice, Habit::Deadline) {
        drawn.deployment_deadline_seconds = Some(number(dice.between(5, 50)));
    }
    drawn
}

fn draw_floor(dice: &mut Dice) -> MinimumHealthy {
    match dice.between(0, 9) {
        0..=3 => MinimumHealthy::OneAtATime,
        4 | 5 => MinimumHealthy::HalfAtATime,
        6 => MinimumHealthy::AllAtOnce,
        7 => MinimumHealthy::HostCount(u32::try_from(dice.between(0, 6)).unwrap_or(0)),
        _ => MinimumHealthy::FleetPercent(
            u8::try_from(*dice.pick(&[0, 34, 50, 75, 99])).unwrap_or(0),
        ),
    }
}

fn draw_chores(
    dice: &mut Dice,
    groups: &[GroupPlan],
    hosts: &[HostPlan],
    voters: usize,
    heal_at: Micros,
    habits: &Habits,
) -> Vec<Chore> {
    let mut chores = Vec::new();
    for (group, plan) in groups.iter().enumerate() {
        let terms = Box::new(plan.terms.clone());
        let kind = ChoreKind::Group { group, terms, widen: false };
        chores.push(Chore { at: dice.between(3, 8) * SECOND, kind });
        let mut at = dice.between(6, 14) * SECOND;
        while at < heal_at {
            chores.push(Chore { at, kind: draw_chore(dice, group, habits) });
            at += dice.between(500_000, 16 * SECOND);
        }
    }
    if habits.knows(Habit::ReleaseSlot) {
        // Early enough for the hold-off to end before everything is mended.
        for _ in 0..2 {
            let group = dice.index(groups.len());
            let stands_still = Some(dice.between(75, 115) * SECOND);
            let kind = ChoreKind::AtGrant(Box::new(ChoreKind::ReleaseSlot { group, stands_still }));
            chores.push(Chore { at: dice.between(10, 40) * SECOND, kind });
        }
    }
    for _ in 0..if habits.knows(Habit::Freeze) { FREEZES } else { 0 } {
        let (group, lasts) = (dice.index(groups.len()), dice.between(SECOND, 20 * SECOND));
        let kind = ChoreKind::Freeze { group, lasts };
        let kind = if dice.permille(500) { ChoreKind::AtGrant(Box::new(kind)) } else { kind };
        let at = dice.between(8 * SECOND, heal_at);
        chores.push(Chore { at, kind });
        // Somebody else has given an order that waits for its turn.
        chores.push(Chore { at: at - SECOND, kind: plain_deploy(group, true) });
    }
    draw_chores_of_hosts(dice, hosts, voters, heal_at, habits, &mut chores);
    draw_haste(&mut dice.fork(1), groups.len(), &mut chores);
    chores.sort_by_key(|chore| chore.at);
    chores
}

/// In some fleets somebody stops what a host has just begun with, at that very host.
fn draw_stops_at_beginning(dice: &mut Dice, heal_at: Micros) -> Vec<Chore> {
    let count = if dice.permille(150) { dice.between(1, 3) } else { 0 };
    let mut at = || dice.between(9 * SECOND, heal_at / 2);
    (0..count).map(|_| Chore { at: at(), kind: ChoreKind::StopAtBeginning }).collect()
}

/// In some fleets somebody decides that a voter is to vote no more.
fn draw_unfit_voters(dice: &mut Dice, heal_at: Micros) -> Vec<Chore> {
    let count = if dice.permille(250) { dice.between(1, 2) } else { 0 };
    let mut draw = || {
        let kind = ChoreKind::VoteNoMore { leads: dice.permille(700) };
        Chore { at: dice.between(10 * SECOND, heal_at), kind }
    };
    (0..count).map(|_| draw()).collect()
}

/// Here and there somebody gives a group more orders in a minute than are kept.
fn draw_haste(dice: &mut Dice, groups: usize, chores: &mut Vec<Chore>) {
    if !dice.permille(60) {
        return;
    }
    let (group, mut at) = (dice.index(groups), dice.between(12, 20) * SECOND);
    for _ in 0..2 * ORDERS_KEPT_PER_GROUP {
        chores.push(Chore { at, kind: plain_deploy(group, false) });
        at += dice.between(SECOND / 2, SECOND);
        chores.push(Chore { at, kind: ChoreKind::Stop { group, rollback: false } });
        at += dice.between(SECOND / 2, SECOND);
    }
}

fn plain_deploy(group: usize, queue: bool) -> ChoreKind {
    let (bad, fallback, configuration, only_outdated) = (Bad::Nowhere, false, None, false);
    ChoreKind::Deploy { group, bad, fallback, configuration, queue, only_outdated }
}

fn draw_chores_of_hosts(
    dice: &mut Dice,
    hosts: &[HostPlan],
    voters: usize,
    heal_at: Micros,
    habits: &Habits,
    chores: &mut Vec<Chore>,
) {
    for (host, plan) in hosts.iter().enumerate() {
        if plan.replaces.is_some() {
            let at = dice.between(10 * SECOND, heal_at);
            chores.push(Chore { at, kind: ChoreKind::Install { host } });
        }
    }
    let others: Vec<_> = (voters..hosts.len())
        .filter(|host| {
            let is_new = hosts[*host].replaces.is_some();
            !is_new && hosts.iter().all(|other| other.replaces != Some(*host))
        })
        .collect();
    for _ in 0..2 {
        if habits.knows(Habit::Remove) && others.len() > 4 {
            let is_replaced = |host: usize| hosts.iter().any(|other| other.replaces == Some(host));
            let first = dice.index(voters);
            let is_first = voters > 1 && dice.permille(300) && !is_replaced(first);
            let host = if is_first { first } else { *dice.pick(&others) };
            let kind = ChoreKind::Remove { host };
            let kind = if dice.permille(500) { ChoreKind::AtGrant(Box::new(kind)) } else { kind };
            chores.push(Chore { at: dice.between(10 * SECOND, heal_at), kind });
        }
        if habits.knows(Habit::Relabel) && !others.is_empty() {
            let small = |number: u64| u8::try_from(number).unwrap_or(0);
            let (a, b) = (small(dice.between(0, 1)), small(dice.between(0, 2)));
            let kind = ChoreKind::Relabel { host: *dice.pick(&others), a, b };
            chores.push(Chore { at: dice.between(10 * SECOND, heal_at), kind });
        }
    }
    for _ in 0..if habits.knows(Habit::Drain) { DRAINS } else { 0 } {
        let lasts = dice.between(SECOND, 30 * SECOND);
        let kind = ChoreKind::Drain { host: dice.index(hosts.len()), lasts };
        let kind = if dice.permille(500) { ChoreKind::AtGrant(Box::new(kind)) } else { kind };
        chores.push(Chore { at: dice.between(8 * SECOND, heal_at), kind });
    }
}

/// How often people freeze a group, and how many hosts they keep for themselves, where they do.
const FREEZES: usize = 6;
const DRAINS: usize = 8;

fn draw_chore(dice: &mut Dice, group: usize, habits: &Habits) -> ChoreKind {
    let often = [Habit::Pause, Habit::Rollback, Habit::ReleaseSlot, Habit::GiveAgain];
    let often: Vec<_> = often.into_iter().filter(|habit| habits.knows(*habit)).collect();
    if !often.is_empty() && dice.permille(250) {
        let kind = match dice.pick(&often) {
            Habit::Pause => ChoreKind::Pause { group, lasts: dice.between(SECOND, 20 * SECOND) },
            Habit::Rollback => ChoreKind::Rollback { group },
            Habit::ReleaseSlot => {
                let stands_still = dice.permille(700).then(|| dice.between(65, 115) * SECOND);
                ChoreKind::ReleaseSlot { group, stands_still }
            }
            _ => return ChoreKind::GiveAgain,
        };
        let at_grant = dice.permille(700);
        return if at_grant { ChoreKind::AtGrant(Box::new(kind)) } else { kind };
    }
    match dice.between(0, 99) {
        0..=61 => ChoreKind::Deploy {
            group,
            bad: match dice.between(0, 9) {
                0..=5 => Bad::Nowhere,
                6 => Bad::Everywhere,
                _ => Bad::OneIn(*dice.pick(&[2, 4, 9])),
            },
            fallback: dice.permille(700),
            configuration: dice.permille(300).then(|| Box::new(draw_configuration(dice, habits))),
            queue: habits.sometimes(dice, Habit::Queue),
            only_outdated: habits.sometimes(dice, Habit::Outdated),
        },
        62..=64 => ChoreKind::Resume { group },
        65..=84 => {
            let kind = ChoreKind::Stop { group, rollback: dice.permille(400) };
            if dice.permille(600) { ChoreKind::AtGrant(Box::new(kind)) } else { kind }
        }
        _ => ChoreKind::Group {
            group,
            terms: Box::new(draw_terms(dice, habits)),
            widen: dice.permille(300),
        },
    }
}

/// Each seed has its own mixture: where everything breaks at once, little is learnt of one thing.
fn draw_faults(dice: &mut Dice, hosts: &[HostPlan], voters: usize, heal_at: Micros) -> Vec<Fault> {
    let kinds: Vec<u64> = (0..15).filter(|_| dice.permille(350)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let pace = *dice.pick(&[1, 3, 8]) * SECOND;
    let mut faults = Vec::new();
    let mut at = 3 * SECOND;
    while at < heal_at {
        let sort = *dice.pick(&kinds);
        let kind = draw_fault(dice, sort, hosts, voters);
        let lasts = match dice.between(0, 9) {
            0..=3 => dice.between(1_000, SECOND),
            4..=7 => dice.between(SECOND, 12 * SECOND),
            _ => dice.between(12 * SECOND, 60 * SECOND),
        };
        // Now and then a fault outlasts all others, and both sides of it go on without each other.
        let lasts = if dice.permille(15) { heal_at } else { lasts };
        faults.push(Fault { at, lasts, kind });
        at += dice.between(1_000, 2 * pace);
    }
    faults
}

/// In some fleets hosts die with a slot in their hands, and are away while the others end what runs, which
/// somebody may stop and send back just then.
fn draw_dead_holders(
    dice: &mut Dice,
    groups: usize,
    heal_at: Micros,
) -> Vec<(Fault, Option<Chore>)> {
    let count = if dice.permille(300) { dice.between(1, 3) } else { 0 };
    let mut draw = || {
        let (at, lasts) = (dice.between(9 * SECOND, heal_at), dice.between(15, 60) * SECOND);
        let kind = FaultKind::HolderDies { begun: dice.permille(700) };
        let stop = ChoreKind::Stop { group: dice.index(groups), rollback: true };
        let chore = Chore { at, kind: ChoreKind::AtGrant(Box::new(stop)) };
        (Fault { at, lasts, kind }, dice.permille(500).then_some(chore))
    };
    (0..count).map(|_| draw()).collect()
}

/// What some fleets have to bear beside their mixture: disks that are slow or full, voters in a row, a key
/// that was stolen, narrow wires, seeds that are gone.
fn draw_more_faults(dice: &mut Dice, size: usize, voters: usize, heal_at: Micros) -> Vec<Fault> {
    let count = if dice.permille(400) { dice.between(1, 4) } else { 0 };
    let one = |dice: &mut Dice| {
        if dice.permille(600) { dice.index(voters) } else { dice.index(size) }
    };
    let mut draw = || {
        let kind = match dice.between(0, 5) {
            0 => FaultKind::ExecutorDiskFails(dice.index(size)),
            1 => {
                let takes = *dice.pick(&[50_000, 400_000, 3 * SECOND]);
                FaultKind::SlowDisk { host: one(dice), takes }
            }
            2 => FaultKind::Chain(dice.some(voters, voters)),
            3 => FaultKind::Narrow { host: one(dice), rate: *dice.pick(&[500, 5_000, 50_000]) },
            4 => FaultKind::SeedsGone,
            _ => FaultKind::Impostor(one(dice)),
        };
        let (at, lasts) = (dice.between(5 * SECOND, heal_at), dice.between(SECOND, 30 * SECOND));
        Fault { at, lasts, kind }
    };
    (0..count).map(|_| draw()).collect()
}

/// In a few fleets some hosts are cut off from the others for more than an hour, and people go on at both ends.
fn draw_hours(dice: &mut Dice, size: usize, heal_at: Micros) -> Option<Fault> {
    let most = (size / 2) as u64;
    let count = usize::try_from(dice.between(1, most)).unwrap_or(1);
    let (at, lasts) = (dice.between(10 * SECOND, heal_at), dice.between(3600, 5400) * SECOND);
    let kind = FaultKind::Split(dice.some(count, size));
    dice.permille(6).then_some(Fault { at, lasts, kind })
}

/// In a few fleets a machine stands still for ten minutes and more: any one, or one that has just been given a
/// slot or has begun with it.
fn draw_long_pause(dice: &mut Dice, size: usize, voters: usize, heal_at: Micros) -> Option<Fault> {
    let (at, lasts) = (dice.between(10 * SECOND, heal_at), dice.between(600, 900) * SECOND);
    let kind = match dice.between(0, 3) {
        0 => FaultKind::Pause { host: dice.index(voters), whole: true },
        1 => FaultKind::Pause { host: dice.index(size), whole: true },
        _ => FaultKind::HolderPauses { begun: dice.permille(500) },
    };
    dice.permille(20).then_some(Fault { at, lasts, kind })
}

/// What people do meanwhile.
fn draw_night(dice: &mut Dice, groups: usize, split: &Fault, habits: &Habits) -> Vec<Chore> {
    let mut draw = || {
        let at = split.at + dice.between(0, split.lasts);
        let group = dice.index(groups);
        Chore { at, kind: draw_chore(dice, group, habits) }
    };
    (0..8).map(|_| draw()).collect()
}

/// One machine of some fleets is restored from an image, or what its daemon wrote down rots: what several
/// forget at once nobody knows, nor what the only voter of a fleet does.
fn draw_put_back(dice: &mut Dice, size: usize, voters: usize, heal_at: Micros) -> Option<Fault> {
    (dice.permille(300) && size > voters).then(|| {
        let host = match dice.permille(700) {
            true if voters > 1 => dice.index(voters),
            _ => voters + dice.index(size - voters),
        };
        let (at, lasts) =
            (dice.between(3 * SECOND, heal_at / 2), dice.between(SECOND, heal_at / 2));
        let kind = match dice.permille(300) {
            true => FaultKind::Rot(host),
            false => FaultKind::PutBack { host, whole: dice.permille(700) },
        };
        Fault { at, lasts, kind }
    })
}

/// A recovery, a verdict and an order after the loss of voters, and the hold-off.
const WAIVED_AFTER: Micros = 100 * SECOND;

/// In a few runs a majority of the voters is lost.
fn draw_loss(dice: &mut Dice, heal_at: Micros) -> Option<Fault> {
    if !dice.permille(350) {
        return None;
    }
    let recovers_after = dice.between(2 * SECOND, 10 * SECOND);
    let lasts = match dice.permille(600) {
        true => 8 * SECOND + recovers_after + dice.between(SECOND, 20 * SECOND),
        false => heal_at,
    };
    let (cut, newest, draw) = (dice.permille(500), dice.permille(400), dice.number());
    let at = dice.between(10 * SECOND, heal_at - 22 * SECOND);
    // Long enough for somebody to waive those who are lost, and for the hold-off.
    let is_long = dice.permille(400);
    let lasts = if is_long { WAIVED_AFTER + dice.between(0, 20 * SECOND) } else { lasts };
    let kind = FaultKind::MajorityLost { cut, newest, recovers_after, draw };
    Some(Fault { at, lasts, kind })
}

/// In a few runs one of the voters is wrong about what is agreed on. More than one may be wrong about
/// nothing less than the quota.
fn draw_deceived(dice: &mut Dice, voters: usize, heal_at: Micros) -> Option<Fault> {
    let at = dice.between(5 * SECOND, heal_at / 2);
    let kind = FaultKind::Deceived(dice.index(voters));
    (voters > 2 && dice.permille(50)).then_some(Fault { at, lasts: heal_at, kind })
}

fn draw_fault(dice: &mut Dice, kind: u64, hosts: &[HostPlan], voters: usize) -> FaultKind {
    let count = hosts.len();
    // Half of all faults hit voters: there are few of them, and much hangs on them.
    let one = |dice: &mut Dice| {
        if dice.permille(500) { dice.index(voters) } else { dice.index(count) }
    };
    match kind {
        0 => FaultKind::KillDaemon(one(dice)),
        1 | 2 => FaultKind::KillAt {
            host: one(dice),
            border: *dice.pick(&[
                Border::BeforePersist,
                Border::AfterPersist,
                Border::BeforeSend,
                Border::AfterSend,
                Border::BeforeExecute,
                Border::AfterExecute,
            ]),
            skip: u32::try_from(dice.between(0, 5)).unwrap_or(0),
        },
        3 if dice.permille(500) => FaultKind::KillAtToken(one(dice)),
        3 => FaultKind::KillExecutor(one(dice)),
        4 => {
            let zone = hosts[one(dice)].zone;
            let rack: Vec<_> = (0..count).filter(|host| hosts[*host].zone == zone).collect();
            let some = dice.index(3) + 1;
            let few = dice.some(some, count);
            FaultKind::PowerLoss(if dice.permille(200) { rack } else { few })
        }
        5 => FaultKind::Pause { host: one(dice), whole: dice.permille(500) },
        6 => {
            let (from, to) = (one(dice), one(dice));
            let everybody = (0..count).filter(|host| *host != from).collect();
            FaultKind::OneWay(vec![from], if dice.permille(300) { everybody } else { vec![to] })
        }
        7 => {
            let some = dice.between(1, (count / 2) as u64);
            FaultKind::Split(dice.some(usize::try_from(some).unwrap_or(1), count))
        }
        10 if dice.permille(300) => FaultKind::Star(dice.index(voters)),
        10 => {
            let times = u32::try_from(dice.between(3, 12)).unwrap_or(3);
            FaultKind::Flap { one: dice.index(voters), other: one(dice), times }
        }
        11 => FaultKind::ZoneCut(hosts[one(dice)].zone),
        12 if dice.permille(200) => FaultKind::RestartAll,
        12 => FaultKind::KillDaemon(one(dice)),
        13 if dice.permille(400) => FaultKind::HoldersDie,
        13 => FaultKind::PowerLoss(vec![one(dice)]),
        14 => FaultKind::DiskFails(one(dice)),
        8 => {
            let (first, second) = (dice.index(voters), one(dice));
            match dice.permille(500) {
                true => FaultKind::Pair(first, second),
                false => FaultKind::Break(first, second),
            }
        }
        _ => {
            let jump: i64 = *dice.pick(&[2, 600, 31_536_000]);
            FaultKind::WallJump(one(dice), if dice.permille(500) { jump } else { -jump })
        }
    }
}
