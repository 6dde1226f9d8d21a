//! The token that opens a worker's Flight service: the cluster's own, which the leader hands out with the registration.
//!
//! Comes in: the token, and calls. Goes out: calls that show it; all others are refused before anything of them is
//! read. A worker that is not registered yet takes no calls. Must never be logged.

use std::sync::Arc;

use parking_lot::RwLock;
use stevedore_common::secret::Secret;
use stevedore_common::{Error, Result};
use stevedore_status::{ShownToken, shown_token, status_of};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// See the module. A clone is another handle to the same token.
#[derive(Clone, Default)]
pub struct FlightToken(Arc<RwLock<Option<Secret<String>>>>);

impl std::fmt::Debug for FlightToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FlightToken").field(&self.0.read().is_some()).finish()
    }
}

impl FlightToken {
    /// Takes what the leader handed out.
    pub fn set(&self, token: String) {
        *self.0.write() = Some(Secret::new(token)).filter(|token| !token.expose().is_empty());
    }

    /// Refuses calls that do not show the token.
    pub fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    /// Shows the token with each call to another worker of the cluster.
    ///
    /// # Errors
    /// Unavailable, before the worker is registered.
    pub fn shown(&self) -> Result<ShownToken> {
        ShownToken::new(self.0.read().as_ref().ok_or_else(not_registered)?)
    }

    fn admits(&self, shown: Option<&str>) -> Result<()> {
        let token = self.0.read();
        let token = token.as_ref().ok_or_else(not_registered)?.expose().as_bytes();
        let shown = shown.unwrap_or_default().as_bytes();
        // In the same time for every token that is wrong.
        let differs = shown.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b));
        if shown.len() == token.len() && differs == 0 {
            return Ok(());
        }
        Err(Error::denied("a worker takes calls from the coordinators and workers of its cluster only")
            .hint("connect to a coordinator"))
    }
}

fn not_registered() -> Error {
    Error::unavailable("this worker is not registered with the leader of its cluster yet")
}

/// See [`FlightToken::guard`].
#[derive(Debug, Clone)]
pub struct Guard(FlightToken);

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.0.admits(shown_token(request.metadata())).map_err(status_of)?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use stevedore_common::ErrorKind;
    use stevedore_status::error_of_status;

    use super::*;

    fn refusal(token: &FlightToken, request: Request<()>) -> Option<ErrorKind> {
        token.guard().call(request).err().map(|status| error_of_status(&status).kind())
    }

    #[test]
    fn only_who_shows_the_token_is_let_in() {
        let (ours, theirs) = (FlightToken::default(), FlightToken::default());
        assert!(ours.shown().is_err_and(|error| error.kind() == ErrorKind::Unavailable));
        assert_eq!(refusal(&ours, Request::new(())), Some(ErrorKind::Unavailable));
        ours.set("0123abcd".to_owned());
        for other in ["", "0123abc", "0123abcde", "0123abce"] {
            theirs.set(other.to_owned());
            let request = match theirs.shown() {
                Ok(mut shown) => shown.call(Request::new(())).unwrap(),
                Err(_) => Request::new(()),
            };
            assert_eq!(refusal(&ours, request), Some(ErrorKind::PermissionDenied), "{other}");
        }
        let request = ours.shown().unwrap().call(Request::new(())).unwrap();
        assert_eq!(refusal(&ours, request), None);
        assert!(!format!("{ours:?} {:?}", ours.shown().unwrap()).contains("0123abcd"));
    }
}
