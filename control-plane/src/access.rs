//! Who may call what: a layer in front of every service, and nothing is reachable around it.
//!
//! The table is in the `.proto` files (option `role`); a method that is not in it may be called by nobody.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use trunkline_proto::METHOD_ROLES;
use trunkline_proto::options::v1::Role as Least;

use crate::identity::{Identity, Role};

/// The layer for `tonic`'s `Server::layer`. The [`Identity`] of each admitted request is in its extensions.
#[must_use]
pub fn access_layer() -> AccessLayer {
    AccessLayer
}

/// The [`Identity`] that the layer left in a request.
///
/// # Errors
/// `UNAUTHENTICATED` where there is none: the service is not behind the layer, or not on our listener.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Identity, Status> {
    request.extensions().get::<Identity>().cloned().ok_or_else(|| Status::unauthenticated(NOBODY))
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The caller has no certificate and the method wants one.
    #[error("{method} needs {needed}, and this connection has no certificate")]
    Unauthenticated {
        /// `/trunkline.operator.v1.OperatorService/ListNodes`
        method: String,
        /// Who may.
        needed: &'static str,
    },
    /// The caller may do other things.
    #[error("{method} needs {needed}; this certificate is of {caller}")]
    Forbidden {
        /// The path.
        method: String,
        /// Who may.
        needed: &'static str,
        /// Who it is.
        caller: Identity,
    },
    /// The table does not have the method.
    #[error("{method} may be called by nobody: it has no role")]
    Unlisted {
        /// The path.
        method: String,
    },
}

/// Decides one call by its path.
///
/// # Errors
/// [`Refused`] says what would be needed.
pub fn permit(caller: &Identity, method: &str) -> Result<(), Refused> {
    let unlisted = || Refused::Unlisted { method: method.to_owned() };
    let least = if HEALTH.iter().any(|prefix| method.starts_with(prefix)) {
        return Ok(());
    } else if REFLECTION.iter().any(|prefix| method.starts_with(prefix)) {
        Least::Viewer
    } else {
        *ROLES.get(method).ok_or_else(unlisted)?
    };
    let needed = match least {
        Least::Unspecified => return Err(unlisted()),
        Least::Viewer => "the role viewer",
        Least::Operator => "the role operator",
        Least::Admin => "the role admin",
        Least::Node => "a server's certificate",
        Least::Newcomer => "a connection without a certificate and a join token",
    };
    match (may(caller, least), caller) {
        (true, _) => Ok(()),
        (false, Identity::Newcomer) => Err(Refused::Unauthenticated { method: method.to_owned(), needed }),
        (false, _) => Err(Refused::Forbidden { method: method.to_owned(), needed, caller: caller.clone() }),
    }
}

/// The whole rule. A replica passes on what operators asked it, and never speaks for a server.
fn may(caller: &Identity, least: Least) -> bool {
    let at_least = |needed: Role| match caller {
        Identity::Operator { role, .. } => *role >= needed,
        Identity::Replica(_) | Identity::Local => true,
        Identity::Node(_) | Identity::Newcomer => false,
    };
    match least {
        Least::Unspecified => false,
        Least::Viewer => at_least(Role::Viewer),
        Least::Operator => at_least(Role::Operator),
        Least::Admin => at_least(Role::Admin),
        Least::Node => matches!(caller, Identity::Node(_) | Identity::Local),
        Least::Newcomer => matches!(caller, Identity::Newcomer),
    }
}

/// See [`access_layer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessLayer;

/// A service behind the layer.
#[derive(Clone, Debug)]
pub struct Guarded<S>(S);

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded(inner)
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match judge(&request) {
            Ok(()) => Answer::Inner(Box::pin(self.0.call(request))),
            Err(status) => Answer::Refusal(Some(status.into_http())),
        }
    }
}

/// The answer of the service behind the layer, or the refusal in front of it.
pub enum Answer<F> {
    /// What the service will say.
    Inner(std::pin::Pin<Box<F>>),
    /// Taken once.
    Refusal(Option<Response<Body>>),
}

impl<F, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.get_mut() {
            Self::Inner(inner) => inner.as_mut().poll(cx),
            Self::Refusal(refusal) => {
                refusal.take().map_or(Poll::Pending, |refusal| Poll::Ready(Ok(refusal)))
            }
        }
    }
}

fn judge<B>(request: &Request<B>) -> Result<(), Status> {
    let Some(caller) = request.extensions().get::<Identity>() else {
        return Err(Status::unauthenticated(NOBODY));
    };
    let method = request.uri().path();
    permit(caller, method).map_err(|refused| {
        tracing::info!(%caller, method, %refused, "call refused");
        let text = refused.to_string();
        match refused {
            Refused::Unauthenticated { .. } => Status::unauthenticated(text),
            Refused::Forbidden { .. } | Refused::Unlisted { .. } => Status::permission_denied(text),
        }
    })
}

static ROLES: LazyLock<HashMap<&'static str, Least>> = LazyLock::new(|| {
    let known = |(path, number): &(&'static str, i32)| Some((*path, Least::try_from(*number).ok()?));
    METHOD_ROLES.iter().filter_map(known).collect()
});

const NOBODY: &str = "this connection has no identity";
const HEALTH: &[&str] = &["/grpc.health.v1.Health/"];
const REFLECTION: &[&str] =
    &["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

#[cfg(test)]
mod tests;
