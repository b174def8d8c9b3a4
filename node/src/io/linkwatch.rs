//! Tells when something about a network device of this namespace may have changed.

use std::io;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

/// A subscription to what the kernel tells of its devices.
pub struct LinkWatch {
    news: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
}

impl LinkWatch {
    /// To be called in a tokio runtime; watches the network namespace of the calling thread.
    pub fn open() -> io::Result<LinkWatch> {
        let (connection, _, messages) = new_multicast_connection(&[MulticastGroup::Link])?;
        Ok(LinkWatch { news: messages.map(drop).boxed(), connection: tokio::spawn(connection) })
    }

    /// Waits for news of any device. Never returns when the subscription has ended: who waits looks by itself, too.
    pub async fn news(&mut self) {
        if self.news.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl std::fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkWatch")
    }
}
