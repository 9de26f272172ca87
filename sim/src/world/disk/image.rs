//! The bytes of one file, sparse: pages that were never written (or only with zeros) take no memory.

const PAGE_BYTES: usize = 4096;

/// The unit that a disk writes or does not write at a crash.
pub const SECTOR_BYTES: u64 = 512;

/// What a page without memory holds. Comparing with it is many times faster than looking at each byte.
static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// A file's contents.
#[derive(Clone, Default)]
pub struct Image {
    len_bytes: u64,
    pages: Vec<Option<Box<[u8; PAGE_BYTES]>>>,
}

impl Image {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Copies bytes out; what lies beyond the end reads as zeros.
    pub fn read(&self, buffer: &mut [u8], offset: u64) {
        for (page, in_page, range) in pieces(offset, buffer.len()) {
            let target = &mut buffer[range.clone()];
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => target.copy_from_slice(&bytes[in_page..in_page + range.len()]),
                None => target.fill(0),
            }
        }
    }

    /// Copies bytes in, extending the file if they reach beyond its end.
    pub fn write(&mut self, data: &[u8], offset: u64) {
        for (page, in_page, range) in pieces(offset, data.len()) {
            let source = &data[range];
            if self.pages.len() <= page {
                self.pages.resize_with(page + 1, || None);
            }
            let slot = &mut self.pages[page];
            if slot.is_none() && *source == ZEROS[..source.len()] {
                continue;
            }
            slot.get_or_insert_with(|| Box::new([0; PAGE_BYTES]))[in_page..in_page + source.len()]
                .copy_from_slice(source);
        }
        self.len_bytes = self.len_bytes.max(offset + data.len() as u64);
    }

    /// Cuts, or extends with zeros.
    pub fn set_len(&mut self, len_bytes: u64) {
        if len_bytes < self.len_bytes {
            let (page, in_page) = position(len_bytes);
            self.pages.truncate(if in_page == 0 { page } else { page + 1 });
            if let Some(Some(last)) = self.pages.get_mut(page) {
                last[in_page..].fill(0);
            }
        }
        self.len_bytes = len_bytes;
    }

    /// The sector number `sector`, zeros beyond the end.
    pub fn sector(&self, sector: u64) -> [u8; SECTOR_BYTES as usize] {
        let mut bytes = [0; SECTOR_BYTES as usize];
        self.read(&mut bytes, sector * SECTOR_BYTES);
        bytes
    }
}

fn position(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("offsets fit into memory");
    (offset / PAGE_BYTES, offset % PAGE_BYTES)
}

/// Cuts `len` bytes at `offset` at page borders: page, position in it, range in the caller's buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let (page, in_page) = position(offset + done as u64);
        let take = (PAGE_BYTES - in_page).min(len - done);
        let range = done..done + take;
        done += take;
        Some((page, in_page, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_plain_vector() {
        let mut dice = crate::world::dice::Dice::new(3, "image");
        let (mut image, mut plain) = (Image::default(), Vec::new());
        for step in 0..2000_u32 {
            let offset = dice.below(20_000) as usize;
            if dice.percent(10) {
                image.set_len(offset as u64);
                plain.resize(offset, 0);
            } else {
                let data = vec![if dice.percent(30) { 0 } else { step as u8 }; dice.below(9000) as usize];
                if plain.len() < offset + data.len() {
                    plain.resize(offset + data.len(), 0);
                }
                plain[offset..offset + data.len()].copy_from_slice(&data);
                image.write(&data, offset as u64);
            }
            assert_eq!(image.len_bytes(), plain.len() as u64);
            let mut read = vec![1; plain.len()];
            image.read(&mut read, 0);
            assert!(read == plain, "step {step}");
        }
    }
}
