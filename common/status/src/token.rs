//! The token with which the processes of a cluster show each other that they belong to it: a header of each call.

use stevedore_common::secret::Secret;
use stevedore_common::{Error, Result};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// Shows a token with each call. Its Debug form hides the token.
#[derive(Debug, Clone)]
pub struct ShownToken(MetadataValue<Ascii>);

impl ShownToken {
    /// Shows this token.
    ///
    /// # Errors
    /// Internal, for a token that no header can hold.
    pub fn new(token: &Secret<String>) -> Result<Self> {
        let mut header = MetadataValue::try_from(format!("{SCHEME}{}", token.expose()))
            .map_err(|_| Error::internal("the cluster's token cannot be a header"))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

impl Interceptor for ShownToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(HEADER, self.0.clone());
        Ok(request)
    }
}

/// The token that a call shows.
pub fn shown_token(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(HEADER)?.to_str().ok()?.strip_prefix(SCHEME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_shown_token_is_found_and_is_not_in_debug_text() {
        let mut shown = ShownToken::new(&Secret::new("0123abcd".to_owned())).unwrap();
        let request = shown.call(Request::new(())).unwrap();
        assert_eq!(shown_token(request.metadata()), Some("0123abcd"));
        assert!(!format!("{shown:?} {request:?}").contains("0123abcd"));
        assert_eq!(shown_token(&MetadataMap::new()), None);
        assert!(ShownToken::new(&Secret::new("a\nb".to_owned())).is_err());
    }
}
