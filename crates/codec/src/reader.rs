//! A reader over bytes that may be hostile: every step is bounds-checked.

use std::fmt;

/// Why bytes could not be decoded, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Offset within the input at which decoding failed.
    pub offset: usize,
    /// What was wrong there.
    pub what: &'static str,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for DecodeError {}

/// Reads primitive values from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, offset: 0 }
    }

    /// How far it has read.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// How much is left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// An error at the present offset.
    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { offset: self.offset, what }
    }

    /// The next `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let taken = rest.get(..len).ok_or_else(|| self.error("input ends early"))?;
        self.offset += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let error = self.error("input ends early");
        self.bytes(N)?.try_into().map_err(|_| error)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A varint of up to 64 bits; refused if longer than needed.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.bytes.get(self.offset) {
            // Most are of one byte.
            Some(&byte) if byte < 0x80 => {
                self.offset += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let start = self.offset;
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError { offset: start, what: "varint over 64 bits" });
            }
            value |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError { offset: start, what: "varint longer than needed" });
                }
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(DecodeError { offset: start, what: "varint over 64 bits" });
            }
        }
    }

    /// A varint that counts bytes or items still in the input: never more than `max`.
    #[inline]
    pub fn varint_len(&mut self, max: usize) -> Result<usize, DecodeError> {
        let error = self.error("length beyond the input");
        let value = self.varint()?;
        match usize::try_from(value) {
            Ok(len) if len <= max => Ok(len),
            _ => Err(error),
        }
    }

    /// A varint length, then that many bytes.
    #[inline]
    pub fn prefixed(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.varint_len(self.remaining())?;
        self.bytes(len)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        self.offset = self.bytes.len();
        rest
    }

    /// Fails unless everything was read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(self.error("bytes after the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Write;

    #[test]
    fn varints_round_trip_and_only_the_shortest_form_decodes() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_empty());
            for cut in 0..bytes.len() {
                assert!(Reader::new(&bytes[..cut]).varint().is_err());
            }
        }
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]] {
            assert!(Reader::new(bad).varint().is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_it_is_used() {
        let mut bytes = Vec::new();
        bytes.put_varint(u64::MAX);
        assert!(Reader::new(&bytes).prefixed().is_err());
        assert!(Reader::new(&[5, 1, 2]).prefixed().is_err());
        assert_eq!(Reader::new(&[2, 1, 2]).prefixed(), Ok(&[1, 2][..]));
    }
}
