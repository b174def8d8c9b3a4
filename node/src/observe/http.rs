//! The HTTP server: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors, `/` for people.
//!
//! Read-only, and on loopback unless the administrator says otherwise. `/healthz` fails (503) while a critical health
//! code is raised; `/readyz` fails until the node can be sent traffic, and says why.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::health::Severity;
use super::{Observe, event};
use crate::control::{Backend, Ready, api};
use crate::fault::StartError;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Events on the status page.
const EVENTS_SHOWN: usize = 20;

#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
}

struct Site<B> {
    observe: Observe,
    backend: Arc<B>,
}

impl Http {
    pub async fn bind(address: SocketAddr) -> Result<Http, StartError> {
        let listener =
            TcpListener::bind(address).await.map_err(|error| StartError::bind(address, "tcp", error))?;
        Ok(Http { listener })
    }

    /// Where it listens; of use when port 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until the future is dropped.
    pub async fn serve<B: Backend>(self, observe: Observe, backend: Arc<B>) {
        let site = Arc::new(Site { observe, backend });
        let router = Router::new()
            .route("/metrics", get(metrics::<B>))
            .route("/healthz", get(healthz::<B>))
            .route("/readyz", get(readyz::<B>))
            .route("/", get(page::<B>))
            .with_state(site);
        if let Err(error) = axum::serve(self.listener, router).await {
            tracing::warn!(%error, "the HTTP server has stopped");
        }
    }
}

async fn metrics<B: Backend>(State(site): State<Arc<Site<B>>>) -> Response {
    match site.observe.metrics().encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn healthz<B: Backend>(State(site): State<Arc<Site<B>>>) -> (StatusCode, String) {
    let health = site.observe.health();
    let critical = health.iter().any(|health| health.severity == Severity::Critical);
    let code = if critical { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut text = if critical { "critical\n".to_owned() } else { "ok\n".to_owned() };
    for health in health {
        text.push_str(&format!("{} {}: {}\n", health.severity.name(), health.code, health.text));
    }
    (code, text)
}

async fn readyz<B: Backend>(State(site): State<Arc<Site<B>>>) -> (StatusCode, String) {
    match site.backend.ready().await {
        Ready::Yes => (StatusCode::OK, "ready\n".to_owned()),
        Ready::No(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn page<B: Backend>(State(site): State<Arc<Site<B>>>) -> Response {
    let status = match site.backend.status().await {
        Ok(status) => status,
        Err(fault) => return (StatusCode::SERVICE_UNAVAILABLE, fault.what).into_response(),
    };
    let past = site.backend.events().past();
    let events: Vec<String> = past
        .iter()
        .rev()
        .take(EVENTS_SHOWN)
        .map(|stamped| format!("{}  {}", event::rfc3339(stamped.at), stamped.event))
        .collect();
    Html(render(&status, &events)).into_response()
}

/// The page: no script, no request to anywhere.
fn render(status: &api::Status, events: &[String]) -> String {
    let mut rows = String::new();
    for node in &status.nodes {
        let cells = [
            node.name.clone(),
            crate::cli::word(&node.role),
            crate::cli::word(&node.state),
            node.segments.to_string(),
            node.ike_sas.to_string(),
            node.child_sas.to_string(),
            node.applied.map_or_else(|| "-".to_owned(), |index| index.to_string()),
        ];
        rows.push_str("<tr>");
        rows.extend(cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))));
        rows.push_str("</tr>\n");
    }
    let health: String = status
        .health
        .iter()
        .map(|health| {
            let words = [health.severity.name(), &health.code, &health.text, &health.fix].map(escaped);
            format!(
                "<li class=\"{}\"><b>{}</b> {}<br><small>try: {}</small></li>\n",
                words[0], words[1], words[2], words[3]
            )
        })
        .collect();
    let title = escaped(status.cluster.as_deref().unwrap_or("not a member"));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>pontoon {title}</title><style>body{{font:15px system-ui,sans-serif;margin:2em;max-width:70em}}\
         table{{border-collapse:collapse}}td,th{{padding:.2em 1em .2em 0;text-align:left}}\
         .critical b{{color:#b00}}.warning b{{color:#a60}}pre{{font-size:13px;white-space:pre-wrap}}</style>\n\
         <h1>{}</h1>\n<p>cluster {title}, seen by {}; configuration revision {}</p>\n\
         <table><tr><th>node<th>role<th>state<th>segments<th>IKE SAs<th>child SAs<th>applied</tr>\n{rows}</table>\n\
         <h2>Health</h2>\n<ul>\n{}</ul>\n<h2>Events</h2>\n<pre>{}</pre>\n</html>\n",
        escaped(&crate::cli::headline(status)),
        escaped(&status.node),
        status.config_revision,
        if health.is_empty() { "<li>all is well</li>\n".to_owned() } else { health },
        escaped(&events.join("\n")),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::Fake;
    use crate::observe::{Event, HealthCode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_four_pages() {
        let fake = Fake::default();
        let observe = fake.observe.clone();
        let http = Http::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = http.address().unwrap();
        let backend = Arc::new(fake);
        let server = tokio::spawn(http.serve(observe.clone(), backend.clone()));

        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.starts_with("HTTP/1.1 200")
                && metrics.contains(OPENMETRICS)
                && metrics.contains("pontoon_build_info")
        );

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        observe.raise(HealthCode::NoQuorum, "1 of 3 voters up");
        let sick = get(address, "/healthz").await;
        assert!(sick.starts_with("HTTP/1.1 503") && sick.contains("critical no-quorum: 1 of 3 voters up"));
        assert!(get(address, "/metrics").await.contains("pontoon_health{code=\"no-quorum\"} 1"));

        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        backend.set_ready(Ready::No("no leader".into()));
        let unready = get(address, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503") && unready.contains("not ready: no leader"));

        observe.emit(Event::Initialized { cluster: "<script>".into() });
        let page = get(address, "/").await;
        assert!(
            page.starts_with("HTTP/1.1 200") && page.contains("edge-1") && page.contains("&lt;script&gt;")
        );
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));

        let twice = Http::bind(address).await.unwrap_err();
        assert!(matches!(twice, StartError::PortInUse { .. }), "{twice}");
        server.abort();
    }
}
