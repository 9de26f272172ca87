//! Lists under keys: a key `l…` holds a row of unique elements, and whoever appends writes the whole row anew.
//!
//! A client that appends proves by a compare that it has seen the newest row. So each row is the one before and one element
//! more, and its last element tells who wrote it. That is what [`crate::checkers`] make use of.

use bytes::Bytes;

/// The first key of lists.
pub const FIRST_KEY: &[u8] = b"l";
/// Behind the last key of lists.
pub const END_KEY: &[u8] = b"m";

/// The key of list number `number`.
pub fn key_name(number: u64) -> Bytes {
    format!("l{number:03}").into()
}

/// True for a key that holds a list: an `l` and a number.
pub fn is_list(key: &[u8]) -> bool {
    matches!(key, [b'l', number @ ..] if number.len() >= 3 && number.iter().all(u8::is_ascii_digit))
}

/// The value of a list.
pub fn encode<T: AsRef<[u8]>>(elements: &[T]) -> Bytes {
    let mut value = vec![b'['];
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            value.push(b' ');
        }
        value.extend_from_slice(element.as_ref());
    }
    value.push(b']');
    value.into()
}

/// The elements of a list; `None` if the value is not one. A list that was written has at least one element.
pub fn decode(value: &Bytes) -> Option<Vec<Bytes>> {
    let row = value.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let elements: Vec<Bytes> = row.split(|&byte| byte == b' ').map(|element| value.slice_ref(element)).collect();
    elements.iter().all(|element| !element.is_empty()).then_some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_and_half_of_one_is_none() {
        let value = encode(&["c1.1/0", "c2.7/3"]);
        assert_eq!(decode(&value).unwrap(), ["c1.1/0", "c2.7/3"]);
        assert_eq!(decode(&value.slice(..value.len() - 1)), None);
        assert_eq!(decode(&Bytes::from("[a  b]")), None);
        assert_eq!(decode(&Bytes::from("[]")), None);
    }

    #[test]
    fn only_numbered_keys_are_lists() {
        assert!(is_list(&key_name(7)) && is_list(&key_name(70_000)));
        assert!(!is_list(b"l") && !is_list(b"lock") && !is_list(b"k007") && !is_list(b"l00a"));
    }
}
