//! Work that only the leader does: begun with each term of this node's, ended with it.

use std::future::Future;

use stevedore_raft::Status;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Calls `lead` whenever the node begins to lead with all that was committed before, and cancels its token when
/// the term or the process ends; `lead` then has to end.
pub async fn while_leading<F>(
    mut status: watch::Receiver<Status>,
    shutdown: CancellationToken,
    lead: impl Fn(CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let leads = status.borrow_and_update().leads_with_current_state;
        if leads {
            let term = CancellationToken::new();
            let leading = tokio::spawn(lead(term.clone()));
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    changed = status.changed() => {
                        if changed.is_err() || !status.borrow_and_update().leads_with_current_state {
                            break;
                        }
                    }
                }
            }
            term.cancel();
            let _ = leading.await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
