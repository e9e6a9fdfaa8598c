//! Connections: each has time limits for its head and for what the client does not take, and is ended in order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use super::guard::Ends;

/// How long the head of a request may take, and how long a connection may be kept without one.
const HEAD: Duration = Duration::from_secs(15);
/// How long a client may take nothing of an answer.
const UNREAD: Duration = Duration::from_secs(60);
/// The most connections at once: others wait.
const MOST: usize = 1024;
/// The pause after a connection that could not be accepted, for want of files for example.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves connections until `stop` is ready, then lets those that are there end in order; `at_once` ends them at once.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: impl Future<Output = ()>,
    at_once: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST));
    let mut stop = std::pin::pin!(stop);
    // What is left when this function returns is dropped.
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = &mut stop => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let ends = stream.and_then(|(stream, client)| {
            let here = stream.local_addr()?;
            // A token is sent as soon as it is there.
            stream.set_nodelay(true)?;
            Ok((stream, Ends { client, here }))
        });
        let Ok((stream, ends)) = ends else {
            tokio::select! {
                () = &mut stop => break,
                // There is nobody to tell; the next one may be luckier.
                _ = tokio::time::timeout(PAUSE, std::future::pending::<()>()) => continue,
            }
        };
        let connection = graceful.watch(connection(stream, ends, routes.clone()));
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // A client that breaks off is no fault of the server.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = at_once => {}
    }
}

fn connection(
    stream: TcpStream,
    ends: Ends,
    routes: Router,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(UNREAD));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(ends);
        routes.clone().oneshot(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}
