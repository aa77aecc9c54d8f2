//! Lists of the kernel's that must be whole.

use futures_util::{Stream, TryStreamExt as _};
use rustix::io::Errno;

/// How often a list is asked for. Each time something must have changed in the few hundred microseconds it takes.
const TRIES: usize = 20;

/// Asks for a list until it is whole. When what is listed changes meanwhile, the kernel marks the list as inconsistent
/// (`NLM_F_DUMP_INTR`, include/uapi/linux/netlink.h), which rtnetlink gives as EBUSY; the list is then to be asked for
/// again.
pub(super) async fn whole<T, S>(mut ask: impl FnMut() -> S) -> Result<Vec<T>, rtnetlink::Error>
where
    S: Stream<Item = Result<T, rtnetlink::Error>>,
{
    let mut left = TRIES;
    loop {
        left -= 1;
        match ask().try_collect().await {
            Err(error) if left > 0 && is_interrupted(&error) => {}
            other => return other,
        }
    }
}

fn is_interrupted(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    message.raw_code() == -Errno::BUSY.raw_os_error()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use futures_util::stream;
    use rtnetlink::packet_core::ErrorMessage;

    use super::*;

    fn refusal(errno: Errno) -> rtnetlink::Error {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-errno.raw_os_error());
        rtnetlink::Error::NetlinkError(message)
    }

    async fn answers(errno: Errno, refusals: usize) -> (usize, Result<Vec<u8>, rtnetlink::Error>) {
        let mut asked = 0;
        let list = whole(|| {
            asked += 1;
            let answer = if asked > refusals { Ok(7) } else { Err(refusal(errno)) };
            stream::iter([Ok(1), answer])
        })
        .await;
        (asked, list)
    }

    #[tokio::test]
    async fn a_list_that_changed_meanwhile_is_asked_for_again() {
        let (asked, list) = answers(Errno::BUSY, 2).await;
        assert_eq!((asked, list.unwrap()), (3, vec![1, 7]));
        let (asked, list) = answers(Errno::BUSY, usize::MAX).await;
        assert_eq!(asked, TRIES);
        list.unwrap_err();
        let (asked, list) = answers(Errno::PERM, 1).await;
        assert_eq!(asked, 1);
        list.unwrap_err();
    }
}
