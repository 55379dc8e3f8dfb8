//! Long lists in messages of a bounded size.

use prost::Message;

use super::MESSAGE_BYTES_MAX;

/// Room for what a message has besides the list.
const ROOM_BYTES: usize = 4 << 10;

/// Tag and length of an element.
const FRAME_BYTES: usize = 8;

/// The list in parts, of which each fits into a message. An element that does not fit has one for itself; an empty list
/// is one empty part.
pub(super) fn split<T>(items: Vec<T>, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let most = MESSAGE_BYTES_MAX - ROOM_BYTES;
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for item in items {
        let size = bytes_of(&item) + FRAME_BYTES;
        if bytes + size > most && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(item);
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    parts
}

/// The same for messages.
pub(super) fn split_messages<M: Message>(items: Vec<M>) -> Vec<Vec<M>> {
    split(items, Message::encoded_len)
}

/// How many elements from the first one on fit into so many bytes.
pub(super) fn within<T>(items: &[T], bytes_max: usize, bytes_of: impl Fn(&T) -> usize) -> usize {
    let mut bytes = ROOM_BYTES;
    let fits = items.iter().take_while(|item| {
        bytes += bytes_of(item) + FRAME_BYTES;
        bytes <= bytes_max
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_the_order_and_fit() {
        let sizes: Vec<usize> = vec![10, 600 << 10, 500 << 10, 2 << 20, 7];
        let parts = split(sizes, |size| *size);
        assert_eq!(parts, [vec![10, 600 << 10], vec![500 << 10], vec![2 << 20], vec![7]]);
        assert_eq!(split(Vec::<usize>::new(), |size| *size), [Vec::<usize>::new()]);
    }
}
