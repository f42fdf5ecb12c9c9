//! Owns how the command line says which node it speaks to, and how that node's refusals read to its user. Reaching it is
//! `vyr-client`'s.

use std::path::PathBuf;

use clap::Args;
use vyr_client::{Address, Client, Connect, RetryPolicy};

use super::Session;
use crate::config::EnvVars;
use crate::error::{Error, ErrorKind, Result};

/// Which node, and what is shown to it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub(super) struct NodeArgs {
    /// The node, as http://HOST:PORT, https://HOST:PORT or unix:PATH [env: VYR_NODE] [default: the data folder's
    /// socket, else http://127.0.0.1:7070]
    #[arg(long, value_name = "URL", value_parser = address)]
    node: Option<Address>,
    /// Show the node the bearer token in this file [env: VYR_TOKEN_FILE, or VYR_TOKEN for the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust this certificate authority (PEM) for the node instead of the system's
    #[arg(long, value_name = "FILE")]
    node_ca: Option<PathBuf>,
    /// Show the node this certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "node_key")]
    node_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "node_cert")]
    node_key: Option<PathBuf>,
}

fn address(text: &str) -> Result<Address> {
    Ok(text.parse()?)
}

impl NodeArgs {
    /// Whether somebody said which node: verbs that work without one ask it only then.
    pub(super) fn is_named(&self) -> bool {
        self.node.is_some() || EnvVars::get(EnvVars::VYR_NODE).is_some()
    }

    /// A connection to the node. Each call is made once: who sits before a terminal sees at once that it failed.
    pub(super) async fn connect(&self, session: &Session) -> Result<Client> {
        let config = session.vyr.config();
        let given = |path: &Option<PathBuf>, set: fn(Connect, PathBuf) -> Connect, connect: Connect| match path {
            Some(path) => set(connect, path.clone()),
            None => connect,
        };
        let mut connect = Client::connect().home(config.home.root()).retry(RetryPolicy::none());
        if let Some(address) = &self.node {
            connect = connect.address(address.to_string());
        }
        connect = given(&self.token_file, Connect::token_file, connect);
        connect = given(&self.node_ca, Connect::ca_file, connect);
        connect = given(&self.node_cert, Connect::cert_file, connect);
        connect = given(&self.node_key, Connect::key_file, connect);
        let address = connect.find()?;
        if config.offline && !address.is_local() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{address} is beyond this machine, and the network is forbidden (--offline)"),
            ));
        }
        Ok(connect.await?)
    }
}

/// The same connection, for what lasts: a wait or a stream goes on when the node was away for a moment.
pub(super) fn patient(node: &Client) -> Client {
    node.with_retry(RetryPolicy::default())
}

/// What the client calls by its settings, by their flags.
const FLAGS: [(&str, &str); 6] = [
    ("`ca_file`", "--node-ca"),
    ("`cert_file`", "--node-cert"),
    ("`key_file`", "--node-key"),
    ("`token_file`", "--token-file"),
    ("or name another", "or name another with --node"),
    ("name it by http", "name it by --node http"),
];

impl From<vyr_client::Error> for Error {
    fn from(error: vyr_client::Error) -> Self {
        let kind = ErrorKind::from_word(error.kind().as_str()).unwrap_or(ErrorKind::Internal);
        // The node's own words are left alone.
        let said = |text: &str| match error.code() {
            Some(_) => text.to_owned(),
            None => FLAGS.iter().fold(text.to_owned(), |text, (setting, flag)| text.replace(setting, flag)),
        };
        let made = Self::new(kind, said(error.message()));
        match error.next() {
            Some(next) => made.hint(said(next)),
            None => made,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_s_errors_name_flags() {
        let error = address("http://me:secret@a:1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.next().is_some_and(|next| next.contains("--token-file")), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn what_the_client_says_of_no_node_and_of_certificates_is_in_the_words_of_flags() {
        let nobody = Client::connect().address("unix:/nothing/node.sock").retry(RetryPolicy::none());
        let error = Error::from(nobody.await.unwrap_err());
        assert_eq!(
            (error.kind(), error.next()),
            (ErrorKind::Unavailable, Some("start one with `vyr serve`, or name another with --node"))
        );
        let plain = Client::connect().address("http://127.0.0.1:1").ca_file("ca.pem").await.unwrap_err();
        let error = Error::from(plain);
        assert_eq!(error.why(), "--node-ca, --node-cert and --node-key are for https; the node is http://127.0.0.1:1");
    }

    #[test]
    fn every_kind_of_the_client_has_one_here() {
        for kind in vyr_client::ErrorKind::ALL {
            let known = ErrorKind::from_word(kind.as_str());
            // A node that doesn't know the call is an older one: nothing that a script decides by.
            assert_eq!(known.is_none(), *kind == vyr_client::ErrorKind::Unimplemented, "{kind}");
        }
    }
}
