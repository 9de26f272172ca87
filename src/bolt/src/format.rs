//! The bytes of pages, elements and metas. All numbers are little-endian.
//!
//! | what | bytes |
//! |---|---|
//! | page | id u64, flags u16, count u16, overflow u32, then the elements |
//! | element of a leaf | flags u32 (1: the value is a bucket), pos u32, key length u32, value length u32 |
//! | element of a branch | pos u32, key length u32, page u64 |
//! | meta | magic u32, version u32, page size u32, flags u32, root u64, sequence u64, freelist u64, pages u64, txid u64, sum u64 |
//! | value that is a bucket | root u64, sequence u64; if the root is 0, the bucket's one page follows |
//!
//! `pos` counts from the begin of its element to the key; the value follows the key.

/// Length of a page's header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Length of an element, of a leaf or of a branch.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Length of a meta, behind its page's header.
pub(crate) const META_BYTES: usize = 64;
/// Length of a bucket's header.
pub(crate) const BUCKET_BYTES: usize = 16;

pub(crate) const BRANCH: u16 = 1;
pub(crate) const LEAF: u16 = 2;
const META: u16 = 4;

/// The flag of an element whose value is a bucket.
pub(crate) const IS_BUCKET: u32 = 1;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// In the place of the freelist: the free pages are not listed, a writer has to look for them.
const NO_FREELIST: u64 = u64::MAX;

pub(crate) const PAGE_BYTES_MIN: usize = 512;
pub(crate) const PAGE_BYTES_MAX: usize = 64 << 10;

/// A number at `at`, which the caller has checked to be inside.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A number at `at`, which the caller has checked to be inside.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    /// Pages that belong to this one beside itself.
    pub(crate) overflow: u32,
}

impl Header {
    pub(crate) fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [.., f0, f1, c0, c1, _, _, _, _] = *bytes;
        Self {
            id: u64_at(bytes, 0),
            flags: u16::from_le_bytes([f0, f1]),
            count: u16::from_le_bytes([c0, c1]),
            overflow: u32_at(bytes, 12),
        }
    }

    pub(crate) fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }
}

/// What a meta says that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_bytes: u32,
    pub(crate) root: u64,
    /// How many pages there are: bbolt's high-water mark.
    pub(crate) pages: u64,
    pub(crate) txid: u64,
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Meta {
    /// Reads what stands behind the page's header; else what is wrong with it.
    pub(crate) fn read(bytes: &[u8; META_BYTES]) -> Result<Self, String> {
        let (magic, version) = (u32_at(bytes, 0), u32_at(bytes, 4));
        if magic != MAGIC {
            return Err(format!("the magic number is {magic:#010x}, not {MAGIC:#010x}"));
        }
        if version != VERSION {
            return Err(format!("format version {version}, only {VERSION} is known"));
        }
        if u64_at(bytes, 56) != fnv(&bytes[..56]) {
            return Err("the meta's checksum does not match".into());
        }
        let page_bytes = u32_at(bytes, 8);
        let is_sane =
            (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&(page_bytes as usize)) && page_bytes.is_power_of_two();
        if !is_sane {
            return Err(format!("a page size of {page_bytes} bytes"));
        }
        Ok(Self { page_bytes, root: u64_at(bytes, 16), pages: u64_at(bytes, 40), txid: u64_at(bytes, 48) })
    }

    /// The page that holds it: header and meta, not filled up.
    pub(crate) fn page(self, id: u64) -> [u8; HEADER_BYTES + META_BYTES] {
        let mut page = [0; HEADER_BYTES + META_BYTES];
        page[..HEADER_BYTES].copy_from_slice(&Header { id, flags: META, count: 0, overflow: 0 }.bytes());
        let meta = &mut page[HEADER_BYTES..];
        for (at, number) in [(0, MAGIC), (4, VERSION), (8, self.page_bytes), (12, 0)] {
            meta[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let numbers = [self.root, 0, NO_FREELIST, self.pages, self.txid];
        for (place, number) in numbers.into_iter().enumerate() {
            meta[16 + 8 * place..][..8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = fnv(&meta[..56]);
        meta[56..].copy_from_slice(&sum.to_le_bytes());
        page
    }
}

/// An element of a leaf.
pub(crate) fn leaf_element(flags: u32, pos: usize, key_len: usize, value_len: usize) -> [u8; ELEMENT_BYTES] {
    let mut element = [0; ELEMENT_BYTES];
    for (place, number) in [flags, narrow(pos), narrow(key_len), narrow(value_len)].into_iter().enumerate() {
        element[4 * place..][..4].copy_from_slice(&number.to_le_bytes());
    }
    element
}

/// An element of a branch.
pub(crate) fn branch_element(pos: usize, key_len: usize, page: u64) -> [u8; ELEMENT_BYTES] {
    let mut element = [0; ELEMENT_BYTES];
    element[..4].copy_from_slice(&narrow(pos).to_le_bytes());
    element[4..8].copy_from_slice(&narrow(key_len).to_le_bytes());
    element[8..].copy_from_slice(&page.to_le_bytes());
    element
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("lengths were limited to 2 GiB")
}

/// Bytes as they can stand in a message: text as text, else hex; cut if long.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(40)];
    let more = if shown.len() < bytes.len() { ".." } else { "" };
    match std::str::from_utf8(shown) {
        Ok(text) if !text.chars().any(char::is_control) => format!("\"{text}\"{more}"),
        _ => shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + more,
    }
}
