//! Files that nobody should have sent: an error or an answer in order, never a panic, a loop, or memory without bound.

use super::{Buckets, Image, read, written};
use crate::format::{self, HEADER_BYTES, Meta};
use crate::{ReadError, Reader};

const PAGE: usize = 512;

/// Two buckets, one a tree of several levels with a value that overflows.
fn sample() -> Buckets {
    let pair = |number: u64| {
        let len = if number == 150 { 2000 } else { 20 };
        (number.to_be_bytes().to_vec(), vec![number as u8; len])
    };
    let small = vec![(b"k".to_vec(), b"v".to_vec()), (b"l".to_vec(), Vec::new())];
    vec![(b"a".to_vec(), small), (b"tree".to_vec(), (0..300).map(pair).collect())]
}

fn is_ordered(buckets: &Buckets) -> bool {
    let names = buckets.is_sorted_by(|a, b| a.0 < b.0);
    names && buckets.iter().all(|(_, pairs)| pairs.is_sorted_by(|a, b| a.0 < b.0))
}

#[test]
fn whatever_byte_is_changed_the_reader_ends_and_answers_in_order() {
    let image = written(&sample(), PAGE);
    let truth = sample();
    let (mut refused, mut equal, mut different) = (0, 0, 0);
    for at in 0..image.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut file = image.clone();
            file[at] ^= change;
            match read(file) {
                Err(error) => {
                    assert!(error.to_string().starts_with("snap.db: page "), "{error}");
                    refused += 1;
                }
                Ok(found) if found == truth => equal += 1,
                // Pages have no checksums: a key or a value may be another one.
                Ok(found) => {
                    assert!(is_ordered(&found), "byte {at}");
                    different += 1;
                }
            }
        }
    }
    assert!(refused > 1000 && equal > 1000 && different > 1000, "{refused} {equal} {different}");
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let image = written(&sample(), PAGE);
    for len in 0..image.len() {
        assert!(matches!(read(image[..len].to_vec()), Err(ReadError::Invalid { .. })), "{len} bytes");
    }
    let mut longer = image;
    longer.extend_from_slice(&[7; 100]);
    assert_eq!(read(longer).expect("what lies behind does not matter"), sample());
}

#[test]
fn one_damaged_meta_is_survived_and_two_are_not() {
    let image = written(&sample(), PAGE);
    for (damaged, survives) in [(&[0][..], true), (&[PAGE], true), (&[0, PAGE], false)] {
        let mut file = image.clone();
        damaged.iter().for_each(|page| file[page + HEADER_BYTES + 20] ^= 1);
        match read(file) {
            Ok(found) => assert!(survives && found == sample()),
            Err(error) => {
                assert!(!survives);
                let text = error.to_string();
                assert!(text.starts_with("snap.db: page 0: the meta's checksum does not match"), "{text}");
            }
        }
    }
}

#[test]
fn the_meta_with_the_higher_transaction_wins() {
    let mut image = written(&sample(), PAGE);
    let meta = |file: &[u8], page: usize| -> Meta {
        Meta::read(file[page * PAGE + HEADER_BYTES..].first_chunk().expect("a meta")).expect("valid")
    };
    assert_eq!((meta(&image, 0).txid, meta(&image, 1).txid), (2, 1));
    // A newer one that points nowhere.
    let newer = Meta { root: 1 << 40, txid: 3, ..meta(&image, 1) };
    let page = newer.page(1);
    image[PAGE..PAGE + page.len()].copy_from_slice(&page);
    let error = read(image).expect_err("the newer meta's root");
    assert!(error.to_string().contains("names page 1099511627776, which is not one of a tree"), "{error}");
}

#[test]
fn each_kind_of_contradiction_is_named() {
    let image = written(&sample(), PAGE);
    let pages = image.len() / PAGE;
    let header = |page: usize| format::Header::read(image[page * PAGE..].first_chunk().expect("a page"));
    let heads: Vec<usize> = {
        let mut page = 2;
        std::iter::from_fn(|| {
            let this = page;
            page += 1 + (page < pages).then(|| header(page).overflow as usize)?;
            Some(this)
        })
        .collect()
    };
    let of_kind = |flags| heads.iter().copied().filter(|page| header(*page).flags == flags).collect::<Vec<_>>();
    let (branches, leaves) = (of_kind(format::BRANCH), of_kind(format::LEAF));
    let top = *branches.last().expect("branches");
    let element = |page: usize, index: usize| page * PAGE + HEADER_BYTES + index * 16;
    let key_of = |page: usize, index: usize| {
        let element = element(page, index);
        element + format::u32_at(&image, element + 4) as usize
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut file = image.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let Err(error) = read(file) else { panic!("byte {at}: {bytes:?} were not noticed") };
        assert!(matches!(error, ReadError::Invalid { .. }));
        error.to_string()
    };
    let leaf = leaves[3];
    for (said, text) in [
        ("calls itself page 99", with(leaf * PAGE, &99u64.to_le_bytes())),
        ("neither branch nor leaf: flags 0x10", with(leaf * PAGE + 8, &[0x10])),
        ("60000 elements do not fit", with(leaf * PAGE + 10, &60000u16.to_le_bytes())),
        ("is 4294967296 pages long", with(leaf * PAGE + 12, &u32::MAX.to_le_bytes())),
        ("unknown flags 0x2", with(element(leaf, 0), &[2])),
        ("element 1 lies at", with(element(leaf, 1) + 4, &u32::MAX.to_le_bytes())),
        ("element 1 lies at", with(element(leaf, 1) + 4, &16u32.to_le_bytes())),
        ("element 0 lies at", with(element(leaf, 0) + 12, &u32::MAX.to_le_bytes())),
        ("a bucket within a bucket", with(element(leaf, 0), &[1])),
        ("is not above key", with(key_of(leaf, 2), &[0; 8])),
        ("a branch without children", with(top * PAGE + 10, &[0, 0])),
        ("names page 1, which is not one of a tree", with(element(top, 0) + 8, &1u64.to_le_bytes())),
        ("some are used twice", with(element(top, 0) + 8, &(top as u64).to_le_bytes())),
    ] {
        assert!(text.contains(said), "{said}: {text}");
        assert!(text.ends_with("it was left as it is"), "{text}");
    }
}

/// Branches over branches, all children of each being the same page, and an empty leaf below.
fn tower(levels: u64, children: usize) -> Result<Buckets, ReadError> {
    let pages = 2 + levels + 2;
    let root = pages - 1;
    let mut file = vec![0; pages as usize * PAGE];
    let meta = Meta { page_bytes: PAGE as u32, root, pages, txid: 2 };
    for page in 0..2 {
        let bytes = meta.page(page);
        file[page as usize * PAGE..][..bytes.len()].copy_from_slice(&bytes);
    }
    let mut put = |page: u64, flags, count: usize, body: &[u8]| {
        let header = format::Header { id: page, flags, count: count as u16, overflow: 0 }.bytes();
        let at = page as usize * PAGE;
        file[at..at + 16].copy_from_slice(&header);
        file[at + 16..at + 16 + body.len()].copy_from_slice(body);
    };
    put(2, format::LEAF, 0, &[]);
    for page in 3..3 + levels {
        let body: Vec<u8> =
            (0..children).flat_map(|place| format::branch_element((children - place) * 16, 0, page - 1)).collect();
        put(page, format::BRANCH, children, &body);
    }
    let mut directory = format::leaf_element(1, 16, 1, 16).to_vec();
    directory.push(b'b');
    directory.extend_from_slice(&(2 + levels).to_le_bytes());
    directory.extend_from_slice(&[0; 8]);
    put(root, format::LEAF, 1, &directory);
    read(file)
}

#[test]
fn no_tree_keeps_the_reader_busy_for_ever_or_fills_its_memory() {
    let error = tower(20, 8).expect_err("8^20 ways from the root to the leaf");
    assert!(error.to_string().contains("some are used twice"), "{error}");
    let error = tower(70, 1).expect_err("a tree that nobody would grow");
    assert!(error.to_string().contains("deeper than 64 pages"), "{error}");
    assert_eq!(tower(60, 1).expect("odd, and harmless"), vec![(b"b".to_vec(), vec![])]);
}

/// An inline bucket, as bbolt makes them of small ones.
fn with_inline(inline: &[u8]) -> Result<Buckets, ReadError> {
    let mut value = vec![0; 16];
    value.extend_from_slice(inline);
    let mut file = written(&vec![(b"b".to_vec(), vec![])], PAGE);
    let root = file.len() - PAGE;
    let mut page = format::leaf_element(1, 16, 1, value.len()).to_vec();
    page.push(b'b');
    page.extend_from_slice(&value);
    file[root + 16..root + 16 + page.len()].copy_from_slice(&page);
    read(file)
}

#[test]
fn inline_buckets_are_read_and_checked() {
    let mut inline = format::Header { id: 0, flags: format::LEAF, count: 1, overflow: 0 }.bytes().to_vec();
    inline.extend_from_slice(&format::leaf_element(0, 16, 1, 2));
    inline.extend_from_slice(b"kvw");
    let found = with_inline(&inline).expect("an inline bucket");
    assert_eq!(found, vec![(b"b".to_vec(), vec![(b"k".to_vec(), b"vw".to_vec())])]);
    for len in 0..inline.len() {
        assert!(with_inline(&inline[..len]).is_err(), "cut to {len} bytes");
    }
    inline[8] = 1;
    assert!(with_inline(&inline).is_err(), "a branch inline");
}

#[test]
fn an_error_ends_the_pairs() {
    let mut image = written(&sample(), PAGE);
    // The last leaf of the tree stands before its branches and the names.
    let last_leaf = (2..image.len() / PAGE)
        .rev()
        .filter(|page| image[page * PAGE + 8] == format::LEAF as u8 && image[page * PAGE] == *page as u8)
        .nth(1)
        .expect("leaves");
    image[last_leaf * PAGE + 8] = 9;
    let reader = Reader::open(Box::new(Image(image)), std::path::Path::new("f")).expect("names are whole");
    let mut entries = reader.bucket(b"tree").expect("the tree").entries();
    let failed = entries.by_ref().position(|pair| pair.is_err()).expect("a damaged leaf");
    assert!(failed > 100);
    assert!(entries.next().is_none());
}
