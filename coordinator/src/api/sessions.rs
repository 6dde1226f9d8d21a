//! Client sessions: the current database and the settings of a client, by bearer token or by the
//! `arrow_flight_session_id` cookie.
//!
//! They live in this coordinator's memory and hold nothing that a statement handle does not carry, so
//! losing one costs a client its USE and SET, never a result. Their number is bounded; idle ones go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use stevedore_common::clock::{Clock, UnixMillis};
use stevedore_common::{Error, Result};
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use crate::engine::DEFAULT_USER;

/// The cookie of Flight's session extension.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";

/// What a client has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSession {
    /// Its id: the token, or the cookie's value.
    pub id: String,
    /// The user's name; there are no accounts yet, so it is whatever the client called itself.
    pub user: String,
    /// Current database.
    pub database: String,
    /// Settings, by lower-case name.
    pub settings: BTreeMap<String, String>,
    /// The W3C trace of the call that asked for the session; empty: none. Not kept.
    pub traceparent: String,
}

#[derive(Debug)]
struct Entry {
    session: ClientSession,
    used_ms: UnixMillis,
}

/// All sessions of this coordinator.
#[derive(Debug)]
pub struct Sessions {
    clock: Arc<dyn Clock>,
    most: usize,
    idle_ms: i64,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Sessions {
    /// At most `most` sessions, each kept for `idle_ms` after its last use.
    pub fn new(clock: Arc<dyn Clock>, most: usize, idle_ms: i64) -> Self {
        Self { clock, most, idle_ms, entries: Mutex::new(HashMap::new()) }
    }

    /// The session that the call's metadata names, made if it is not known; without a name, a new one.
    /// The second value is true when the client does not know the id yet.
    ///
    /// # Errors
    /// Resource exhausted, when there are too many.
    pub fn of_request(&self, metadata: &MetadataMap) -> Result<(ClientSession, bool)> {
        let (mut session, new) = match session_id(metadata) {
            Some(id) => (self.get_or_make(&id)?, false),
            None => (self.get_or_make(&Uuid::new_v4().simple().to_string())?, true),
        };
        if let Some(traceparent) = metadata.get("traceparent").and_then(|value| value.to_str().ok()) {
            traceparent.clone_into(&mut session.traceparent);
        }
        Ok((session, new))
    }

    /// A session by id, made if it is not known.
    ///
    /// # Errors
    /// Resource exhausted, when there are too many; invalid input for an oversized id.
    pub fn get_or_make(&self, id: &str) -> Result<ClientSession> {
        if id.is_empty() || id.len() > 256 {
            return Err(Error::invalid("a session id has 1 to 256 bytes"));
        }
        let now = self.clock.now_ms();
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(id) {
            entry.used_ms = now;
            return Ok(entry.session.clone());
        }
        if entries.len() >= self.most {
            entries.retain(|_, entry| now - entry.used_ms <= self.idle_ms);
            if entries.len() >= self.most {
                // A session is a convenience: the one unused for the longest makes room.
                let oldest = entries.iter().min_by_key(|(_, entry)| entry.used_ms).map(|(id, _)| id.clone());
                match oldest {
                    Some(oldest) => entries.remove(&oldest),
                    None => return Err(Error::exhausted("no sessions are allowed (limit 0)")),
                };
            }
        }
        let session = ClientSession {
            id: id.to_owned(),
            user: user_of(id),
            database: "default".to_owned(),
            settings: BTreeMap::new(),
            traceparent: String::new(),
        };
        entries.insert(id.to_owned(), Entry { session: session.clone(), used_ms: now });
        Ok(session)
    }

    /// Changes a session, if it still exists.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut ClientSession)) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            change(&mut entry.session);
        }
    }

    /// Closes a session; false if it was not open.
    pub fn close(&self, id: &str) -> bool {
        self.entries.lock().remove(id).is_some()
    }
}

/// The token of a new session of a user. It carries the name, so that every coordinator knows whose it is.
pub fn new_token(user: &str) -> String {
    format!("{}.{}", Uuid::new_v4().simple(), hex::encode(user))
}

/// The user that a session id names; [`DEFAULT_USER`] for ids that were not made by [`new_token`].
fn user_of(id: &str) -> String {
    id.split_once('.')
        .and_then(|(_, user)| hex::decode(user).ok())
        .and_then(|user| String::from_utf8(user).ok())
        .filter(|user| !user.is_empty())
        .unwrap_or_else(|| DEFAULT_USER.to_owned())
}

/// The id in the metadata: the bearer token, else the cookie.
pub fn session_id(metadata: &MetadataMap) -> Option<String> {
    let bearer = metadata
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim().to_owned());
    bearer.or_else(|| {
        metadata
            .get_all("cookie")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, _)| *name == SESSION_COOKIE)
            .map(|(_, value)| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use stevedore_common::clock::ManualClock;

    use super::*;

    #[test]
    fn a_session_is_found_by_token_or_cookie() {
        let mut metadata = MetadataMap::new();
        assert_eq!(session_id(&metadata), None);
        metadata.insert("cookie", "a=b; arrow_flight_session_id=c1".parse().unwrap());
        assert_eq!(session_id(&metadata).as_deref(), Some("c1"));
        metadata.insert("authorization", "Bearer t1".parse().unwrap());
        assert_eq!(session_id(&metadata).as_deref(), Some("t1"));
    }

    #[test]
    fn a_token_says_whose_session_it_is() {
        let sessions = Sessions::new(Arc::new(ManualClock::at(0)), 2, 1_000);
        assert_eq!(sessions.get_or_make(&new_token("Ada Ø")).unwrap().user, "Ada Ø");
        for id in ["plain", "a.zz", "a.", "a.ff"] {
            assert_eq!(sessions.get_or_make(id).unwrap().user, DEFAULT_USER, "{id}");
        }
    }

    #[test]
    fn the_longest_unused_session_makes_room() {
        let clock = ManualClock::at(0);
        let sessions = Sessions::new(Arc::new(clock.clone()), 2, 1_000);
        for id in ["a", "b"] {
            sessions.get_or_make(id).unwrap();
            sessions.update(id, |session| session.database = id.to_owned());
            clock.advance_ms(1);
        }
        sessions.get_or_make("a").unwrap();
        sessions.get_or_make("c").unwrap();
        assert_eq!(sessions.get_or_make("a").unwrap().database, "a");
        assert!(!sessions.close("b"));
    }
}
