//! Who may see which sessions, and end them.
//!
//! Owns the names of the rights: to see a session is to subscribe to `$SYS.SESSION.<id>`, to disconnect it is to publish to
//! `$SYS.SESSION.<id>.DISCONNECT`. Nobody publishes there; the names are the permission language's. What is a user's own is
//! open to it, except to `anonymous`, whom strangers share. It must not know who asks over which protocol.

use waymeet_core::permissions::Access;
use waymeet_core::{Filter, Subject};

use super::Session;
use crate::auth::{ANONYMOUS, User, Who};

/// What must be open to see all.
const ALL: &str = "$SYS.SESSION.>";

/// What one who asks may see.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    who: Who,
    all: Access,
}

/// Why a session is not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// There is none, as far as whoever asks may see.
    #[error("there is no such session")]
    Unknown,
    /// It is another's.
    #[error("disconnecting this session needs leave to publish to $SYS.SESSION.<id>.DISCONNECT")]
    NoPermission,
}

impl Sight {
    /// `who` is `None` where nobody is asked who he is; then everything is open.
    pub(crate) fn new(who: &Who) -> Self {
        let all = who.as_ref().map_or(Access::All, |user| may_see(user, ALL));
        Self { who: who.clone(), all }
    }

    /// Whether there is nothing that it may not see.
    pub(crate) fn is_whole(&self) -> bool {
        self.all == Access::All
    }

    /// Whether a session may be seen.
    pub(crate) fn takes_in(&self, session: &Session) -> bool {
        let Some(user) = &self.who else { return true };
        self.is_whole()
            || is_own(user, session)
            || may_see(user, &format!("$SYS.SESSION.{}", session.id())) == Access::All
    }

    /// Whether a session may be ended.
    ///
    /// # Errors
    /// Says whether it may at least be seen.
    pub(crate) fn may_disconnect(&self, session: &Session) -> Result<(), Denied> {
        if !self.takes_in(session) {
            return Err(Denied::Unknown);
        }
        let Some(user) = &self.who else { return Ok(()) };
        let right = format!("$SYS.SESSION.{}.DISCONNECT", session.id());
        let may = Subject::new(&right).is_ok_and(|subject| user.policy().permissions.may_publish(subject));
        if may || is_own(user, session) { Ok(()) } else { Err(Denied::NoPermission) }
    }
}

fn may_see(user: &User, filter: &str) -> Access {
    let Ok(filter) = Filter::new(filter) else { return Access::None };
    user.policy().permissions.subscribe_access(filter, None)
}

fn is_own(user: &User, session: &Session) -> bool {
    user.name() != ANONYMOUS && session.user().is_some_and(|owner| owner.name() == user.name())
}
