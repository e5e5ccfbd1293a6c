//! The content of a file kept in memory: sparse pages, cheap to copy.
//!
//! A copy shares its pages with the original until one of them writes, so that an image of a
//! whole disk costs pointers, not bytes. Pages of zeros take no room unless something else stood there.
//! A page remembers its digest until it is written, so that comparing images costs pointers too.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::rng::mix;

const PAGE_BYTES: usize = 4096;

/// The largest file. A page table for a file this long still fits in memory.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 36;

struct Page {
    bytes: [u8; PAGE_BYTES],
    digest: OnceLock<u64>,
}

impl Clone for Page {
    /// Copied to be written: the digest stays behind.
    fn clone(&self) -> Page {
        Page { bytes: self.bytes, digest: OnceLock::new() }
    }
}

impl Page {
    /// 0 for a page of zeros, which is the same as no page.
    fn digest(&self) -> u64 {
        let fold = |digest: u64, word: &[u8; 8]| mix(digest ^ u64::from_le_bytes(*word)).wrapping_add(1);
        let words = || self.bytes.as_chunks::<8>().0;
        *self.digest.get_or_init(|| if is_zero(&self.bytes) { 0 } else { words().iter().fold(1, fold) })
    }
}

/// Whether there are only zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// The bytes of one file. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Image {
    /// Invariant: bytes at and after `len` are zero; a page not here is zeros.
    pages: Vec<Option<Arc<Page>>>,
    len: u64,
}

/// The part of one page that an access touches.
struct Span {
    page: usize,
    start: usize,
    len: usize,
}

/// Splits an access at page borders.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = Span> {
    let mut done = 0usize;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = offset + done as u64;
        let start = usize::try_from(at % PAGE_BYTES as u64).ok()?;
        let page = usize::try_from(at / PAGE_BYTES as u64).ok()?;
        let part = (PAGE_BYTES - start).min(len - done);
        done += part;
        Some(Span { page, start, len: part })
    })
}

impl Image {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads at most `buf.len()` bytes; 0 at or past the end.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let left = self.len.saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut rest = &mut buf[..len];
        for span in spans(offset, len) {
            let (part, tail) = rest.split_at_mut(span.len);
            match self.pages.get(span.page) {
                Some(Some(page)) => part.copy_from_slice(&page.bytes[span.start..span.start + span.len]),
                _ => part.fill(0),
            }
            rest = tail;
        }
        len
    }

    /// Writes all of `data`, growing the file.
    pub(crate) fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let end = checked_len(offset.checked_add(data.len() as u64))?;
        let mut rest = data;
        for span in spans(offset, data.len()) {
            let (part, tail) = rest.split_at(span.len);
            let page = self.page_mut(span.page);
            page[span.start..span.start + span.len].copy_from_slice(part);
            rest = tail;
        }
        if !data.is_empty() {
            self.len = self.len.max(end);
        }
        Ok(())
    }

    /// Writes so many zeros, growing the file; whole pages of them are let go.
    pub(crate) fn write_zeros(&mut self, len: usize, offset: u64) -> io::Result<()> {
        let end = checked_len(offset.checked_add(len as u64))?;
        for span in spans(offset, len) {
            match self.pages.get_mut(span.page) {
                Some(page) if span.len == PAGE_BYTES => *page = None,
                Some(Some(_)) => self.page_mut(span.page)[span.start..span.start + span.len].fill(0),
                Some(None) | None => {}
            }
        }
        if len > 0 {
            self.len = self.len.max(end);
        }
        Ok(())
    }

    /// Equal for equal content, and hardly ever for other.
    pub(crate) fn digest(&self) -> u64 {
        let pages = (1..).zip(&self.pages).filter_map(|(number, page)| Some((number, page.as_ref()?.digest())));
        pages
            .filter(|(_, page)| *page != 0)
            .fold(mix(self.len), |digest, (number, page)| mix(digest ^ page ^ mix(number)))
    }

    fn page_mut(&mut self, index: usize) -> &mut [u8; PAGE_BYTES] {
        if self.pages.len() <= index {
            self.pages.resize(index + 1, None);
        }
        let empty = || Arc::new(Page { bytes: [0; PAGE_BYTES], digest: OnceLock::new() });
        let page = Arc::make_mut(self.pages[index].get_or_insert_with(empty));
        page.digest.take();
        &mut page.bytes
    }

    /// Cuts, or grows with zeros.
    pub(crate) fn set_len(&mut self, len: u64) -> io::Result<()> {
        checked_len(Some(len))?;
        if len < self.len {
            let whole = usize::try_from(len.div_ceil(PAGE_BYTES as u64)).unwrap_or(usize::MAX);
            self.pages.truncate(whole);
            let tail = usize::try_from(len % PAGE_BYTES as u64).unwrap_or(0);
            if tail > 0 && self.pages.len() == whole && matches!(self.pages.last(), Some(Some(_))) {
                self.page_mut(whole - 1)[tail..].fill(0);
            }
        }
        self.len = len;
        Ok(())
    }
}

fn checked_len(len: Option<u64>) -> io::Result<u64> {
    match len {
        Some(len) if len <= FILE_BYTES_MAX => Ok(len),
        _ => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(image: &Image) -> Vec<u8> {
        let mut all = vec![1; usize::try_from(image.len()).unwrap() + 10];
        let got = image.read(&mut all, 0);
        all.truncate(got);
        all
    }

    #[test]
    fn agrees_with_a_plain_vector() {
        let seed = 11;
        println!("seed {seed}");
        let mut rng = crate::rng::Rng::new(seed);
        let mut image = Image::default();
        let mut plain: Vec<u8> = Vec::new();
        for step in 0..400u32 {
            let offset = rng.below(20_000);
            let kind = rng.below(4);
            if kind == 0 {
                image.set_len(offset).unwrap();
                plain.resize(usize::try_from(offset).unwrap(), 0);
            } else {
                let byte = if kind == 1 { 0 } else { (step % 251) as u8 + 1 };
                let data = vec![byte; usize::try_from(rng.below(9_000)).unwrap() + 1];
                let (start, before) = (usize::try_from(offset).unwrap(), image.clone());
                let (old, digest) = (bytes(&before), before.digest());
                match kind {
                    1 => image.write_zeros(data.len(), offset).unwrap(),
                    _ => image.write(&data, offset).unwrap(),
                }
                assert_eq!((bytes(&before), before.digest()), (old, digest), "a copy must not see later writes");
                plain.resize(plain.len().max(start + data.len()), 0);
                plain[start..start + data.len()].copy_from_slice(&data);
            }
            assert_eq!(bytes(&image), plain, "step {step}");
            let mut fresh = Image::default();
            fresh.write(&plain, 0).unwrap();
            assert_eq!(image.digest(), fresh.digest(), "step {step}: the digest is of the content alone");
            if let Some(last) = plain.len().checked_sub(1) {
                fresh.write(&[plain[last] ^ 1], last as u64).unwrap();
                assert_ne!(image.digest(), fresh.digest(), "step {step}: every byte counts");
            }
        }
    }

    #[test]
    fn a_cut_tail_comes_back_as_zeros() {
        let mut image = Image::default();
        image.write(b"abcdef", 0).unwrap();
        image.set_len(2).unwrap();
        image.set_len(6).unwrap();
        assert_eq!(bytes(&image), b"ab\0\0\0\0");
    }

    #[test]
    fn refuses_lengths_no_disk_has() {
        let mut image = Image::default();
        let kind = |r: io::Result<()>| r.unwrap_err().kind();
        assert_eq!(kind(image.set_len(u64::MAX)), io::ErrorKind::FileTooLarge);
        assert_eq!(kind(image.write(b"x", u64::MAX)), io::ErrorKind::FileTooLarge);
        assert_eq!(kind(image.write(b"x", FILE_BYTES_MAX)), io::ErrorKind::FileTooLarge);
        image.set_len(FILE_BYTES_MAX).unwrap();
        assert_eq!(image.len(), FILE_BYTES_MAX);
    }
}
