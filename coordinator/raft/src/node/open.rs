//! Opening: which stores a node has, whether they belong to it and to each other, and the one time
//! that they are made.

use super::*;

/// What a node keeps, and where.
pub struct Stores {
    /// The log.
    pub log: Box<dyn LogStore>,
    /// The applied state.
    pub state: StateStore,
    /// Snapshots.
    pub snapshots: SnapshotFolder,
}

impl Stores {
    /// In the folder of the configuration, or in memory if it has none.
    ///
    /// # Errors
    /// Not found, if the folder must hold a store and does not; bad data, if a store is damaged;
    /// conflict, if another process uses it.
    pub fn open(config: &NodeConfig, start: Start) -> Result<Self> {
        let Some(folder) = &config.data_dir else {
            return Ok(Self {
                log: Box::new(MemoryLogStore::new()),
                state: StateStore::memory(),
                snapshots: SnapshotFolder::temporary()?,
            });
        };
        if start == Start::Open && !folder.join("log").exists() {
            return Err(no_store(config));
        }
        Ok(Self {
            log: Box::new(SledLogStore::open(&folder.join("log"), config.log_cache_bytes)?),
            state: StateStore::open(&folder.join("state"), config.state_cache_bytes)?,
            snapshots: SnapshotFolder::open(&folder.join("snapshots"))?,
        })
    }
}

fn place(config: &NodeConfig) -> String {
    match &config.data_dir {
        Some(folder) => format!("the data folder '{}'", folder.display()),
        None => "the store in memory".to_owned(),
    }
}

fn no_store(config: &NodeConfig) -> Error {
    Error::not_found(format!("{} holds no store of node {}", place(config), config.id)).hint(
        "found a new cluster with an explicit bootstrap; a member that lost its disk must join again as a new member, under a new id",
    )
}

/// Checks identity and state, makes them if this start is the first; answers who the member is.
pub(super) fn prepare(
    config: &NodeConfig,
    start: Start,
    log: &mut dyn LogStore,
    state: &StateStore,
) -> Result<Identity> {
    match (log.identity()?, start) {
        (None, Start::Open) => Err(no_store(config)),
        (Some(_), Start::Bootstrap | Start::Join) => {
            Err(Error::already_exists(format!("{} holds the store of a member already", place(config)))
                .hint("start without bootstrapping or joining to go on with it"))
        }
        (None, Start::Bootstrap | Start::OpenOrBootstrap) => {
            let voters = config.founding_voters()?;
            let membership = Membership { voters: voters.clone(), ..Membership::default() };
            // Every founding member starts with the same entry already applied, so that a member that
            // joins later with nothing never takes its log for the same.
            create(config, log, state, voters, membership, 1)
        }
        (None, Start::Join) => create(config, log, state, Vec::new(), Membership::default(), 0),
        (Some(identity), Start::Open | Start::OpenOrBootstrap) => {
            check_identity(config, start, &identity)?;
            check_state(config, log, state, &identity)?;
            Ok(identity)
        }
    }
}

fn create(
    config: &NodeConfig,
    log: &mut dyn LogStore,
    state: &StateStore,
    voters: Vec<u64>,
    membership: Membership,
    first: u64,
) -> Result<Identity> {
    let meta = state.meta();
    if meta.applied > 1 {
        return Err(Error::conflict(format!("{} holds a state but no log", place(config))).hint(
            "the log was lost: move what is left away and join the cluster again as a new member, or restore all of it from a backup",
        ));
    }
    let identity = Identity::generate(&config.cluster_id, config.id.0, voters);
    let stamped = StateMeta {
        incarnation: identity.incarnation.clone(),
        applied: first,
        applied_term: first,
        membership,
        ..StateMeta::default()
    };
    // By way of an installation, since an attempt that was cut short may have left the same index.
    state.begin_install().finish(stamped)?;
    // The identity comes last: with it the member exists.
    let hard_state = HardState { term: first, commit: first, ..HardState::default() };
    log.bootstrap(&identity, LogStart { index: first, term: first }, &hard_state)?;
    Ok(identity)
}

fn check_identity(config: &NodeConfig, start: Start, identity: &Identity) -> Result<()> {
    if identity.cluster_id != config.cluster_id || identity.node_id != config.id.0 {
        return Err(Error::conflict(format!(
            "{} belongs to node {} of cluster '{}', not to node {} of cluster '{}'",
            place(config),
            identity.node_id,
            identity.cluster_id,
            config.id,
            config.cluster_id
        ))
        .hint("check the data folder, the node id and the cluster id"));
    }
    if start == Start::OpenOrBootstrap
        && !identity.bootstrap_voters.is_empty()
        && config.founding_voters()? != identity.bootstrap_voters
    {
        return Err(Error::conflict(format!(
            "{} was bootstrapped with the voters {:?}, not {:?}",
            place(config),
            identity.bootstrap_voters,
            config.voters.iter().map(|v| v.0).collect::<Vec<_>>()
        ))
        .hint(
            "members are added and removed while the cluster runs; the founding voters stay what they were",
        ));
    }
    Ok(())
}

/// The state may lag behind the log, which is durable first; it may lead only by a snapshot that was
/// installed before the log could follow.
fn check_state(
    config: &NodeConfig,
    log: &mut dyn LogStore,
    state: &StateStore,
    identity: &Identity,
) -> Result<()> {
    let meta = state.meta();
    let lost = |what: String| {
        Err(Error::bad_data(format!("{} is damaged: {what}", place(config))).hint(
            "it is not repaired: move it away and join the cluster again as a new member, or restore all of it from a backup",
        ))
    };
    if meta.incarnation != identity.incarnation {
        return lost("log and state belong to different members".to_owned());
    }
    let start = log.start();
    let last = log.last_index();
    let mut hard_state = log.hard_state()?;
    if meta.applied < start.index {
        return lost(format!(
            "the state ends at log entry {}, the log begins after {}",
            meta.applied, start.index
        ));
    }
    let follows = meta.applied <= last && log.term(meta.applied)? == meta.applied_term;
    if !follows {
        if meta.installed != meta.applied || meta.applied == 0 {
            return lost(format!(
                "the state is at log entry {} of term {}, which the log (up to {last}) does not have",
                meta.applied, meta.applied_term
            ));
        }
        hard_state.commit = meta.applied;
        if hard_state.term < meta.applied_term {
            hard_state.term = meta.applied_term;
            hard_state.vote = 0;
        }
        return log.restart_at(LogStart { index: meta.applied, term: meta.applied_term }, &hard_state);
    }
    if hard_state.commit < meta.applied {
        // How far is committed need not be durable; what is applied was committed.
        hard_state.commit = meta.applied;
        log.write(&crate::log_store::LogWrite { entries: &[], hard_state: Some(&hard_state) }, true)?;
    }
    Ok(())
}
