//! The next step after an error. A room's error knows its own hint; here they are asked, outermost first.

/// The first hint that an error in the chain has to give.
pub fn of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(from)
}

fn from(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    macro_rules! ask {
        ($($error:ty),* $(,)?) => {
            None$(.or_else(|| cause.downcast_ref::<$error>().and_then(<$error>::hint)))*
        };
    }
    ask!(
        crate::base::BaseError,
        crate::image::ImageError,
        crate::source::SourceError,
        crate::publish::PublishError,
        crate::replica::Error,
        crate::containerd::Error,
        crate::network::Error,
        crate::dependencies::DependencyError,
        crate::queue::QueueError,
        crate::registry::Error,
        crate::registry_server::ServerError,
        crate::secrets::SecretError,
        crate::auth::AuthError,
        crate::store::StoreError,
        crate::store::TransferError,
        crate::project::ProjectError,
        super::invoke::Unreadable,
        super::tell::PushedOnly,
        super::server::ServerError,
        super::usage::Usage,
        crate::serve::ServeError
    )
}
