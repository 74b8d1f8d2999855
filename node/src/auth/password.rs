//! Argon2id hashes of passwords and tokens (RFC 9106), in the PHC string format.
//!
//! Owns making them, checking that a text is one, and the comparison. Comparing takes milliseconds and megabytes on
//! purpose; who may cause it is decided elsewhere.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};

/// The most memory that a hash of the configuration may ask for at each login: 1 GiB, in KiB.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// The most passes over that memory.
const MAX_PASSES: u32 = 64;
/// The hash that is compared for users that do not exist when no user has one to take instead: of the cost that
/// `hash` chooses, and of nothing that anybody knows.
pub(super) const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$d2F5bWVldC1kZWNveS1zYWx0$\
    AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Hashes a secret with 19 MiB and two passes, which is OWASP's first choice, and a random salt.
///
/// # Errors
/// When the secret is longer than Argon2 takes, which is 4 GiB.
pub fn hash(secret: &str) -> Result<String, argon2::password_hash::Error> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let salt = rand::random::<[u8; 16]>();
    argon2.hash_password_with_salt(secret.as_bytes(), &salt).map(|hash: PasswordHash| hash.to_string())
}

/// What is wrong with a hash from the configuration. Never repeats it.
pub(crate) fn error(hash: &str) -> Option<String> {
    const EXPECTED: &str = "expected an Argon2id hash as `waymeet auth hash` prints it";
    let Ok(parsed) = PasswordHash::new(hash) else { return Some(EXPECTED.to_owned()) };
    if parsed.algorithm.as_str() != "argon2id" || parsed.salt.is_none() || parsed.hash.is_none() {
        return Some(EXPECTED.to_owned());
    }
    let Ok(params) = Params::try_from(&parsed) else { return Some(EXPECTED.to_owned()) };
    (params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES).then(|| {
        format!(
            "asks for more than 1 GiB of memory or {MAX_PASSES} passes at every login; make a cheaper one with \
             `waymeet auth hash`"
        )
    })
}

/// Whether the hash is that of the secret. The comparison of the hashes takes the same time wherever they differ.
pub(super) fn matches(secret: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hashed_is_recognised() {
        let hashed = hash("correct horse").unwrap();
        assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hashed}");
        assert_eq!(error(&hashed), None);
        assert!(matches("correct horse", &hashed));
        assert!(!matches("Correct horse", &hashed));
        assert_ne!(hash("correct horse").unwrap(), hashed, "each has a salt of its own");
        assert_eq!(error(DECOY), None);
        assert!(!matches("", DECOY));
    }

    #[test]
    fn what_is_no_hash_is_named_and_not_repeated() {
        for text in [
            "",
            "s3cr3t",
            "$2a$11$s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3tse",
            "$argon2i$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "$argon2id$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ",
            "$argon2id$v=19$m=4194304,t=3,p=1$c2FsdHNhbHQ$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            let said = error(text).unwrap();
            assert!(said.contains("waymeet auth hash") && !said.contains("s3cr3t"), "{text}: {said}");
        }
    }
}
