//! One HTTP/1.1 connection that we dialed, and nothing beside it: no task, no pool.
//!
//! Whoever dialed drives it, together with what it wants from it ([`Connection::drive`]); when that is dropped, so is the
//! socket. So a connection cannot outlive its owner.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use quorate_http::HyperStream;
use quorate_runtime::net::{Address, BoxStream};
use quorate_runtime::{Rt, clock, pin, select};
use quorate_types::GoDuration;

use super::body::RequestBody;
use super::url::PeerUrl;

/// No connection, or no answer on it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The URL cannot be used, whoever is there.
    #[error("{0}")]
    Unusable(String),
    /// Nobody could be reached.
    #[error("cannot connect to {url}: {source}")]
    Connect {
        /// Where to.
        url: String,
        /// What the network said.
        source: io::Error,
    },
    /// HTTP failed.
    #[error("{}", describe(.0))]
    Http(#[from] hyper::Error),
    /// Too long.
    #[error("no answer within {}", GoDuration::from(*.0))]
    Timeout(Duration),
    /// An answer that is not the one wanted.
    #[error("{0}")]
    Refused(String),
}

/// hyper's errors hide their cause.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An open connection.
pub struct Connection {
    url: Arc<PeerUrl>,
    sender: http1::SendRequest<RequestBody>,
    driver: Pin<Box<http1::Connection<HyperStream<BoxStream>, RequestBody>>>,
    ended: bool,
}

impl Connection {
    /// Dials `url`, trying each address of its host, for at most `limit`.
    pub async fn dial(rt: &Rt, url: Arc<PeerUrl>, limit: Duration) -> Result<Self, CallError> {
        let stream = match clock::timeout(&**rt, limit, connect(rt, &url)).await {
            Ok(connected) => connected.map_err(|source| CallError::Connect { url: url.as_str().to_owned(), source })?,
            Err(clock::Elapsed) => {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(CallError::Connect { url: url.as_str().to_owned(), source });
            }
        };
        let (sender, driver) = http1::handshake(HyperStream::new(stream)).await?;
        Ok(Self { url, sender, driver: Box::pin(driver), ended: false })
    }

    /// Where to.
    pub fn url(&self) -> &Arc<PeerUrl> {
        &self.url
    }

    /// Runs `work`, and the connection for as long as that takes.
    pub async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        pin!(work);
        loop {
            select! {
                biased;
                done = &mut work => return done,
                // Whoever waits for it learns of its end through the request or the body that it waits for.
                _ = self.driver.as_mut(), if !self.ended => self.ended = true,
            }
        }
    }

    /// Sends `request` and waits for the head of the answer.
    pub async fn call_patiently(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, CallError> {
        let answer = self.sender.send_request(request);
        Ok(self.drive(answer).await?)
    }

    /// Sends `request` and waits for the head of the answer, at most for `limit`.
    pub async fn call(
        &mut self,
        rt: &Rt,
        request: Request<RequestBody>,
        limit: Duration,
    ) -> Result<Response<Incoming>, CallError> {
        match clock::timeout(&**rt, limit, self.call_patiently(request)).await {
            Ok(answer) => answer,
            Err(clock::Elapsed) => Err(CallError::Timeout(limit)),
        }
    }

    /// Waits until another request can be sent; false if never.
    pub async fn ready(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let Self { sender, driver, ended, .. } = self;
        select! {
            biased;
            // First the driver: it may have seen the other side hang up.
            _ = driver.as_mut() => {
                *ended = true;
                false
            }
            ready = sender.ready() => ready.is_ok(),
        }
    }

    /// Completes when the other side hangs up.
    pub async fn closed(&mut self) {
        if !self.ended {
            let _ = self.driver.as_mut().await;
            self.ended = true;
        }
    }
}

async fn connect(rt: &Rt, url: &PeerUrl) -> io::Result<BoxStream> {
    let addresses = match url.host().parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, url.port())],
        Err(_) => rt.lookup_host(url.host().to_owned(), url.port()).await?,
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match rt.connect(Address::Tcp(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
