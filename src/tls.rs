//! TLS towards others: whose certificates are trusted, and what every connection that is opened here goes by.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// The certificate authorities that this machine trusts.
pub fn roots_of_this_machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A broken certificate in the system's store is no reason to refuse the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// For connections to servers whose certificates these have signed.
pub fn client(roots: RootCertStore) -> ClientConfig {
    // Named, not the process's default: a dependency may bring a second one, and then there is none.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("ring speaks rustls's default versions"))
        .with_root_certificates(roots)
        .with_no_client_auth()
}
