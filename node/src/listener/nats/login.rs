//! How the client of a NATS conversation gets in.
//!
//! Owns what it has shown so far, the login under way and whose session it becomes. It must not know the protocol;
//! core's session asks.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use waymeet_core::nats::{Credentials as Shown, Login, LoginRefusal};

use crate::auth::{self, Attempt, Auth, Connected, Credentials, LoginError, PolicyId, Unproved, User, Who};
use crate::tls::ClientCertificate;

/// What the connection itself says of its client.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Who it is already: a WebSocket whose upgrade had credentials.
    pub(crate) user: Who,
    /// Its verified certificate.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

pub(super) struct Entrance {
    from: IpAddr,
    nonce: Option<String>,
    proof: Proof,
    pending: Option<oneshot::Receiver<Result<Arc<User>, LoginError>>>,
    /// Whether the client is in; then `user` says as whom.
    is_open: bool,
    user: Who,
    connected: Option<Connected>,
    unproved: Option<Unproved>,
    /// There were too many unproved clients when this one came.
    is_crowded: bool,
}

impl Entrance {
    pub(super) fn new(auth: &Arc<Auth>, from: IpAddr, proof: Proof) -> Self {
        let mut entrance = Self {
            from,
            nonce: None,
            proof,
            pending: None,
            is_open: false,
            user: None,
            connected: None,
            unproved: None,
            is_crowded: false,
        };
        if !auth.is_asked()
            && let Ok(user) = auth.nobody()
        {
            // Whether there is room for one more is told with the first answer, not before any question.
            entrance.is_open = entrance.let_in(Ok(user)).is_ok();
            if entrance.is_open {
                return entrance;
            }
        }
        entrance.unproved = auth.unproved();
        entrance.is_crowded = entrance.unproved.is_none();
        if entrance.is_crowded {
            auth.count_crowd();
        }
        entrance.nonce = Some(auth::nonce());
        entrance
    }

    /// Notes the certificate of a handshake that came after the greeting.
    pub(super) fn show_certificate(&mut self, certificate: Option<Arc<ClientCertificate>>) {
        self.proof.certificate = certificate;
    }

    /// Whether the client need not say who it is.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }

    pub(super) fn user(&self) -> Who {
        self.user.clone()
    }

    /// The number of the rules under which the client publishes now.
    #[inline]
    pub(super) fn policy(&self) -> Option<PolicyId> {
        self.user.as_ref().map(|user| user.policy_id())
    }

    /// Whether whoever it is may still be here, after a reload.
    pub(super) fn still_holds(&self, auth: &Auth) -> bool {
        match &self.user {
            Some(user) => !user.is_gone(),
            None => matches!(auth.nobody(), Ok(None)),
        }
    }

    /// Finds out who the client is. What CONNECT shows goes before what the connection says.
    pub(super) fn authenticate(&mut self, auth: &Auth, shown: &Shown) -> Login {
        if self.is_crowded {
            return Login::Refused(LoginRefusal::TooMany);
        }
        let outcome = match self.attempt(auth, shown) {
            Ok(Attempt::Pending(waiting)) => {
                self.pending = Some(waiting);
                return Login::Pending;
            }
            Ok(Attempt::Decided(outcome)) => outcome.map(Some),
            Err(without) => without,
        };
        match self.let_in(outcome) {
            Ok(()) => Login::Accepted,
            Err(refusal) => Login::Refused(refusal),
        }
    }

    /// The attempt that the credentials make; in the error's place who the client is without any.
    fn attempt(&self, auth: &Auth, shown: &Shown) -> Result<Attempt, Result<Who, LoginError>> {
        let nonce = self.nonce.as_deref().unwrap_or_default().as_bytes();
        let credentials = match shown {
            Shown { nkey: Some(key), signature, .. } => {
                Credentials::NKey { key, signature: signature.as_deref().unwrap_or_default(), nonce }
            }
            Shown { token: Some(token), .. } => Credentials::Token(token),
            Shown { user: Some(user), password, .. } => {
                Credentials::Password { user, password: password.as_deref().unwrap_or_default() }
            }
            _ if self.proof.user.is_some() => return Err(Ok(self.proof.user.clone())),
            _ => match &self.proof.certificate {
                Some(certificate) => Credentials::Certificate(&certificate.names),
                None => return Err(auth.nobody()),
            },
        };
        Ok(auth.login(credentials, self.from))
    }

    /// The outcome of the login under way.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LoginRefusal>> {
        let Some(waiting) = &mut self.pending else { return Poll::Ready(Err(LoginRefusal::Violation)) };
        let outcome = ready!(waiting.poll_unpin(cx)).unwrap_or(Err(LoginError::Busy));
        self.pending = None;
        Poll::Ready(self.let_in(outcome.map(Some)))
    }

    fn let_in(&mut self, outcome: Result<Who, LoginError>) -> Result<(), LoginRefusal> {
        let user = outcome.map_err(|error| match error {
            LoginError::Missing | LoginError::Wrong => LoginRefusal::Violation,
            LoginError::TooManyFailures | LoginError::Busy => LoginRefusal::TooMany,
        })?;
        if let Some(user) = &user {
            self.connected = Some(user.connect().ok_or(LoginRefusal::TooManySessions)?);
        }
        self.user = user;
        self.unproved = None;
        Ok(())
    }
}
