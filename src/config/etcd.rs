//! The flags that say where etcd is: shared by the server and by the verbs that open its store.

use std::path::PathBuf;

use crate::store::{EtcdOptions, EtcdTls, EtcdUser, StoreError};

// The etcd that several nodes share; without it the store is in the data folder.
#[derive(clap::Args, Clone, Debug)]
pub struct EtcdArguments {
    /// The members of etcd (http://a:2379,http://b:2379)
    #[arg(long, env = "FNBUILD_ETCD", value_delimiter = ',', value_name = "URL,…")]
    etcd: Vec<String>,
    /// Trust this authority (PEM)
    #[arg(long, env = "FNBUILD_ETCD_CA", value_name = "FILE", requires = "etcd")]
    etcd_ca: Option<PathBuf>,
    /// Show etcd this certificate (PEM)
    #[arg(long, env = "FNBUILD_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, env = "FNBUILD_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// A user of etcd's; the password is read from --etcd-password-file
    #[arg(long, env = "FNBUILD_ETCD_USER", value_name = "NAME", requires = "etcd_password_file")]
    etcd_user: Option<String>,
    #[arg(long, env = "FNBUILD_ETCD_PASSWORD_FILE", value_name = "FILE", requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
}

impl EtcdArguments {
    pub fn is_named(&self) -> bool {
        !self.etcd.is_empty()
    }

    /// `None` where no etcd is named. Reads the password's file.
    pub fn options(&self) -> Result<Option<EtcdOptions>, StoreError> {
        if self.etcd.is_empty() {
            return Ok(None);
        }
        let mut options = EtcdOptions::new(self.etcd.iter().cloned());
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        options.tls = EtcdTls { authority: self.etcd_ca.clone(), identity };
        if let (Some(name), Some(path)) = (&self.etcd_user, &self.etcd_password_file) {
            let password = std::fs::read_to_string(path);
            let password = password
                .map_err(|source| StoreError::Credentials { path: path.clone(), source: source.into() })?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            options.user = Some(EtcdUser { name: name.clone(), password });
        }
        Ok(Some(options))
    }
}
