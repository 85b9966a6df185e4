//! How a value is sealed: XChaCha20-Poly1305 with a random nonce, the name as associated data.
//!
//! A sealed value is a format byte, the key's ID (16 hexadecimal digits), the nonce, the ciphertext with its tag. The
//! 192-bit nonce of the X variant is what makes random ones safe for any number of values.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::{SecretError, SecretKey, SecretName};

const FORMAT: u8 = 1;
const ID: usize = 16;
const NONCE: usize = 24;

pub fn seal(key: &SecretKey, name: &SecretName, value: &[u8]) -> Result<Vec<u8>, SecretError> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(SecretError::Random)?;
    let payload = Payload { msg: value, aad: name.as_str().as_bytes() };
    let sealed = cipher(key).encrypt(&XNonce::from(nonce), payload);
    // Only a value above 256 GiB cannot be sealed.
    let sealed = sealed.map_err(|_| SecretError::TooLarge { name: name.clone() })?;
    Ok([&[FORMAT], key.id().as_str().as_bytes(), &nonce, &sealed].concat())
}

pub fn open(key: &SecretKey, name: &SecretName, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let damaged = || SecretError::Damaged { name: name.clone() };
    let (format, rest) = sealed.split_first().ok_or_else(damaged)?;
    if *format != FORMAT {
        return Err(SecretError::NewerFormat { name: name.clone(), found: *format });
    }
    let (id, rest) = rest.split_at_checked(ID).ok_or_else(damaged)?;
    if id != key.id().as_str().as_bytes() {
        let theirs = String::from_utf8_lossy(id).into_owned();
        return Err(SecretError::OtherKey { ours: key.id().to_string(), theirs });
    }
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
    let payload = Payload { msg: ciphertext, aad: name.as_str().as_bytes() };
    let value = cipher(key).decrypt(&XNonce::from(*nonce), payload).map_err(|_| damaged())?;
    Ok(Zeroizing::new(value))
}

fn cipher(key: &SecretKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        let folder = tempfile::tempdir().unwrap();
        SecretKey::load_or_create(&folder.path().join("key")).unwrap()
    }

    #[test]
    fn a_value_comes_back_only_whole_under_its_name_and_by_its_key() {
        let (key, name): (_, SecretName) = (key(), "api-key".parse().unwrap());
        for value in [&b""[..], b"s3cr3t", &[0; 5000]] {
            let sealed = seal(&key, &name, value).unwrap();
            assert_eq!(*open(&key, &name, &sealed).unwrap(), value);
            assert!(value.len() < 4 || !sealed.windows(value.len()).any(|window| window == value));
            assert_ne!(seal(&key, &name, value).unwrap(), sealed, "no nonce twice");
            for at in [17, 41, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert!(matches!(open(&key, &name, &changed), Err(SecretError::Damaged { .. })), "byte {at}");
            }
            assert!(open(&key, &name, &sealed[..sealed.len() - 1]).is_err());
            let other: SecretName = "other".parse().unwrap();
            assert!(matches!(open(&key, &other, &sealed), Err(SecretError::Damaged { .. })));
        }
        let sealed = seal(&key, &name, b"x").unwrap();
        assert!(matches!(open(&self::key(), &name, &sealed), Err(SecretError::OtherKey { .. })));
        for cut in 0..sealed.len() {
            assert!(open(&key, &name, &sealed[..cut]).is_err());
        }
    }
}
