//! Any text as an image reference: refused, or one that comes back from its own text and leads nowhere else in a URL.

#![no_main]

use fnbuild::oci::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let reference = match text.parse::<Reference>() {
        Ok(reference) => reference,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            return;
        }
    };
    let again: Reference = reference.to_string().parse().expect("its own text is a reference");
    assert_eq!(again, reference);
    let path = format!("/v2/{}/manifests/{}", reference.repository, reference.manifest());
    // A host may be one that no URL takes, as 1.2.3.400; then nothing is ever asked there.
    let Ok(url) = format!("https://{}{path}", reference.registry).parse::<url::Url>() else { return };
    assert_eq!(url.path(), path);
    assert_eq!((url.query(), url.fragment(), url.username(), url.password()), (None, None, "", None));
});
