//! Appending primitive values to a byte vector.

/// Appends the encodings that [`crate::Reader`] reads.
pub trait Write {
    /// One byte.
    fn put_u8(&mut self, value: u8);
    /// A 16-bit number, little-endian.
    fn put_u16(&mut self, value: u16);
    /// A 32-bit number, little-endian.
    fn put_u32(&mut self, value: u32);
    /// A 64-bit number, little-endian.
    fn put_u64(&mut self, value: u64);
    /// A LEB128 number of 1 to 10 bytes.
    fn put_varint(&mut self, value: u64);
    /// A varint length, then the bytes.
    fn put_prefixed(&mut self, bytes: &[u8]);
}

impl Write for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    #[inline]
    fn put_prefixed(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}
