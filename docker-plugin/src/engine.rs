//! Docker's own word on whether a network still exists.
//!
//! `docker network rm` succeeds even when the plugin is down, and nobody tells us afterwards; the network would keep
//! its part of the lease for ever. So where a network stands in the way of another, Docker is asked about it. Only
//! the status of the answer matters, so a request by hand does. Never asked about containers: Docker does not answer
//! for one whose network call we are just serving.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::debug;

/// Docker answers from memory; whoever takes longer is in trouble of its own.
const PATIENCE: Duration = Duration::from_secs(1);

/// `HTTP/1.1 200`
const STATUS_LENGTH: usize = 12;

/// The Docker that calls us.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: Option<PathBuf>,
}

impl Engine {
    /// Asked at this socket; an empty path is never asked.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket: Some(socket).filter(|s| !s.as_os_str().is_empty()) }
    }

    /// Whether Docker says that it has no such network. Silence says nothing.
    pub async fn denies(&self, network: &str) -> bool {
        let Some(socket) = &self.socket else { return false };
        // What goes into the path came from Docker once; a state file may say anything.
        if network.is_empty() || !network.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return false;
        }
        let asked = async {
            let mut stream = UnixStream::connect(socket).await?;
            let request = format!("GET /networks/{network} HTTP/1.0\r\nHost: docker\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut status = [0; STATUS_LENGTH];
            stream.read_exact(&mut status).await?;
            Ok::<_, std::io::Error>(status)
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(status)) => status.starts_with(b"HTTP/1.") && status.ends_with(b" 404"),
            Ok(Err(e)) => {
                debug!("Docker at {} can't be asked: {e}", socket.display());
                false
            }
            Err(_) => {
                debug!("Docker at {} does not answer", socket.display());
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::UnixListener;

    use super::*;

    /// Answers one request with these bytes and gives the request.
    fn answer(socket: &Path, bytes: &'static [u8]) -> tokio::task::JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        })
    }

    #[tokio::test]
    async fn only_a_clear_no_is_a_no() {
        let dir = tempfile::tempdir().unwrap();
        let cases: [(&[u8], bool); 5] = [
            (b"HTTP/1.0 404 Not Found\r\n\r\n{}", true),
            (b"HTTP/1.0 200 OK\r\n\r\n{}", false),
            (b"HTTP/1.0 500 Oops\r\n\r\n", false),
            (b"HTTP/1.0 4", false),
            (b"gibberish   404", false),
        ];
        for (i, (bytes, denied)) in cases.into_iter().enumerate() {
            let socket = dir.path().join(i.to_string());
            let server = answer(&socket, bytes);
            assert_eq!(Engine::at(socket).denies("9eccb7a0fab9").await, denied, "{bytes:?}");
            assert!(server.await.unwrap().starts_with("GET /networks/9eccb7a0fab9 HTTP/1.0\r\n"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_a_no() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("hangs");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(!Engine::at(socket).denies("9eccb7a0fab9").await);
        assert!(!Engine::at(dir.path().join("absent")).denies("9eccb7a0fab9").await);
        assert!(!Engine::at(PathBuf::new()).denies("9eccb7a0fab9").await);
    }
}
