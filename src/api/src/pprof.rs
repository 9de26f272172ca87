//! `/debug/pprof/`: where the process's time and memory go, for `go tool pprof` and what else reads its profiles.
//!
//! Paths, headers and refusals are those of Go's `net/http/pprof`, with which etcd serves them. What takes the profiles belongs to the
//! process around the member ([`Profiler`]); an API without one has none of these paths. Goroutines and what Go's scheduler
//! knows of them do not exist here, and their profiles are refused.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use quorate_runtime::{select, spawn};

use crate::body::ApiBody;
use crate::plain;
use crate::service::Api;

/// Where all of it is.
pub const PREFIX: &str = "/debug/pprof/";

const PROFILE: &str = "application/octet-stream";
/// By this Go's tool knows that the body says what is wrong.
const GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

/// How long the processors are watched if nobody says otherwise.
const SECONDS_DEFAULT: u64 = 30;
/// And at most.
const SECONDS_MAX: u64 = 60 * 60;
/// Addresses of which names are asked for at once: some 50,000.
const ADDRESSES_BYTES_MAX: usize = 1 << 20;

const INDEX: &str = "<!DOCTYPE html>\n<html><head><title>/debug/pprof/</title></head><body>\n\
    <p>Profiles of this process, for <code>go tool pprof</code>:</p>\n<ul>\n\
    <li><a href=\"profile?seconds=30\">profile</a>: what the processors do, for so many seconds</li>\n\
    <li><a href=\"heap\">heap</a>: memory in use, by who has allocated it since the start</li>\n\
    <li><a href=\"cmdline\">cmdline</a>: the command line</li>\n\
    <li>symbol: the functions at addresses</li>\n</ul>\n</body></html>\n";

/// Takes profiles of the process, gzipped and in the form of `profile.proto`. What may take a while is called on a thread of its own.
pub trait Profiler: Send + Sync {
    /// Begins to sample what the processors do; the error says why not.
    fn start_cpu(&self) -> Result<Box<dyn CpuSamples>, String>;

    /// Memory in use.
    fn heap(&self) -> Result<Vec<u8>, String>;

    /// The function at an address of the program.
    fn function(&self, address: usize) -> Option<String>;
}

/// Samples that are being taken, until this is dropped.
pub trait CpuSamples: Send {
    /// Takes no more of them; the profile.
    fn finish(self: Box<Self>) -> Result<Vec<u8>, String>;
}

/// Answers a request of a path that begins with [`PREFIX`].
pub async fn answer<B>(api: &Api, profiler: Arc<dyn Profiler>, parts: &Parts, body: B) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let mut response = match parts.uri.path().strip_prefix(PREFIX).unwrap_or_default() {
        "" => plain::respond(StatusCode::OK, plain::HTML, Bytes::from_static(INDEX.as_bytes())),
        "cmdline" => plain::respond(StatusCode::OK, plain::TEXT, api.process.command_line.join("\0").into()),
        "symbol" => functions(api, profiler, parts, body).await,
        "profile" => profile("profile", cpu(api, profiler, duration(&parts.uri)).await),
        "heap" if is_for_eyes(&parts.uri) => refuse(StatusCode::BAD_REQUEST, "heap has no form for eyes (debug=1)"),
        "heap" => profile("heap", on_thread(api, move || profiler.heap()).await),
        name => refuse(StatusCode::NOT_FOUND, &format!("Unknown profile; {PREFIX} lists what there is, not {name}")),
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn profile(name: &'static str, taken: Result<Vec<u8>, String>) -> Response<ApiBody> {
    let taken = match taken {
        Ok(taken) => taken,
        Err(why) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &why),
    };
    let mut response = plain::respond(StatusCode::OK, PROFILE, taken.into());
    if let Ok(file) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        response.headers_mut().insert(CONTENT_DISPOSITION, file);
    }
    response
}

fn refuse(status: StatusCode, text: &str) -> Response<ApiBody> {
    let mut response = plain::error(status, text);
    response.headers_mut().insert(GO_PPROF, HeaderValue::from_static("1"));
    response
}

/// For how long; what is no number, or none above zero, is not said.
fn duration(uri: &Uri) -> Duration {
    let seconds = plain::query(uri, "seconds").next().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
    Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT).min(SECONDS_MAX))
}

/// Go would write text.
fn is_for_eyes(uri: &Uri) -> bool {
    plain::query(uri, "debug").next().is_some_and(|debug| debug != "0")
}

/// Watches the processors. Ends early when the server drains; and for nothing when the client goes away.
async fn cpu(api: &Api, profiler: Arc<dyn Profiler>, duration: Duration) -> Result<Vec<u8>, String> {
    let samples = on_thread(api, move || profiler.start_cpu()).await;
    let samples = samples.map_err(|why| format!("Could not enable CPU profiling: {why}"))?;
    select! {
        biased;
        () = api.draining() => {}
        () = api.rt.sleep(duration) => {}
    }
    on_thread(api, move || samples.finish()).await
}

/// Names of functions, a line for each address that is one's: `go tool pprof` asks with a POST, `curl` may ask with a query.
async fn functions<B>(api: &Api, profiler: Arc<dyn Profiler>, parts: &Parts, body: B) -> Response<ApiBody>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let asked = if parts.method == Method::POST {
        let limited = Limited::new(Box::pin(body).map_err(|error| error.to_string()), ADDRESSES_BYTES_MAX);
        match limited.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("cannot read the addresses: {error}")),
        }
    } else {
        Bytes::copy_from_slice(parts.uri.query().unwrap_or_default().as_bytes())
    };
    let names = move || {
        let mut lines = "num_symbols: 1\n".to_owned();
        for address in addresses(&String::from_utf8_lossy(&asked)) {
            if let Some(name) = profiler.function(address) {
                lines.push_str(&format!("{address:#x} {name}\n"));
            }
        }
        Ok(lines)
    };
    match on_thread(api, names).await {
        Ok(lines) => plain::respond(StatusCode::OK, plain::TEXT, lines.into()),
        Err(why) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}

/// Numbers with a plus between them, hexadecimal if they say so.
fn addresses(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.split('+').map(str::trim).filter_map(|word| match word.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    })
}

/// Does what may take a while where nobody waits for it.
async fn on_thread<T: Send + 'static>(
    api: &Api,
    job: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let worker = api.rt.background_worker("pprof");
    spawn::run_on(&*worker, job).await.unwrap_or_else(|_| Err("the process ends".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_takes_them() {
        for (query, seconds) in [
            ("", 30),
            ("?seconds=7", 7),
            ("?seconds=0", 30),
            ("?seconds=-3", 30),
            ("?seconds=x", 30),
            ("?seconds=86400", 3600),
        ] {
            let uri = format!("{PREFIX}profile{query}").parse().unwrap();
            assert_eq!(duration(&uri), Duration::from_secs(seconds), "{query}");
        }
    }

    #[test]
    fn addresses_in_both_notations() {
        assert_eq!(addresses("0x1f+16+nonsense++0xzz+ 0xA\n").collect::<Vec<_>>(), [31, 16, 10]);
        assert_eq!(addresses("").count(), 0);
    }

    #[test]
    fn refusals_are_for_gos_tool_to_show() {
        let refused = profile("heap", Err("no".to_owned()));
        assert_eq!((refused.status().as_u16(), refused.headers()[GO_PPROF].as_bytes()), (500, &b"1"[..]));
        let taken = profile("heap", Ok(vec![1]));
        assert_eq!(taken.headers()[CONTENT_DISPOSITION], "attachment; filename=\"heap\"");
        assert_eq!(taken.headers()[http::header::CONTENT_TYPE], PROFILE);
    }
}
