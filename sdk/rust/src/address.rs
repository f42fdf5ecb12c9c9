//! Owns where a node listens: how an address is written, and which one is taken where nobody says one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::env;
use crate::error::{Error, Result};

const DEFAULT: &str = "http://127.0.0.1:7070";
/// A node's socket in its data folder.
const SOCKET: &str = "node.sock";

/// Where a node listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Unix(PathBuf),
    Tcp { url: String, tls: bool, loopback: bool },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Unix(path) => write!(f, "unix:{}", path.display()),
            Form::Tcp { url, .. } => f.write_str(url),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // What stands before an @ may be a password.
        let shown = text.rsplit('@').next().unwrap_or(text);
        let bad = |why: &str| {
            Error::usage(format_args!("`{shown}` is not a node's address: {why}"))
                .hint("write http://HOST:PORT, https://HOST:PORT or unix:PATH")
        };
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.is_empty() { Err(bad("it has no path")) } else { Ok(Self(Form::Unix(path.into()))) };
        }
        if !text.contains("://") {
            return Err(bad("it doesn't begin with http://, https:// or unix:"));
        }
        let url = url::Url::parse(text).map_err(|e| bad(&e.to_string()))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(bad("it doesn't begin with http://, https:// or unix:")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::usage("a node's address carries no user name or password")
                .hint("a token goes into a file that `token_file` names"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("something follows the port"));
        }
        let loopback = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(bad("it has no host")),
        };
        Ok(Self(Form::Tcp { url: url.as_str().trim_end_matches('/').to_owned(), tls, loopback }))
    }
}

impl Address {
    /// The address of the node whose data folder is `home`, where it listens on its socket; else the usual one.
    pub(crate) fn of_home(home: Option<&Path>) -> Result<Self> {
        let socket = match home {
            Some(home) => Some(home.join(SOCKET)),
            None => data_folder().map(|folder| folder.join(SOCKET)),
        };
        match socket.filter(|socket| socket.exists()) {
            Some(socket) => Ok(Self(Form::Unix(socket))),
            None => DEFAULT.parse(),
        }
    }

    /// Whether it is on this machine by its name: a socket, `localhost` or a loopback address.
    #[must_use]
    pub fn is_local(&self) -> bool {
        !matches!(self.0, Form::Tcp { loopback: false, .. })
    }

    /// Whether it is spoken to by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Form::Tcp { tls: true, .. })
    }

    /// A token that travels in the clear is everybody's.
    pub(crate) fn may_see_token(&self) -> Result<()> {
        if self.is_tls() || self.is_local() {
            return Ok(());
        }
        Err(Error::usage(format_args!(
            "the token isn't sent to {self}: over plain http everybody on the way could read it"
        ))
        .hint("use https:// (with `ca_file` for a private authority), or leave the token out"))
    }

    /// As tonic takes it.
    pub(crate) fn uri(&self) -> Result<String> {
        match &self.0 {
            Form::Tcp { url, .. } => Ok(url.clone()),
            Form::Unix(path) => match path.to_str() {
                Some(path) => Ok(format!("unix://{path}")),
                None => Err(Error::usage(format_args!("{self} can't be used: its path is not UTF-8"))),
            },
        }
    }
}

/// `VYR_HOME`, else `vyr` in the XDG data folder.
fn data_folder() -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    let xdg = || etcetera::choose_base_strategy().ok().map(|base| base.data_dir().join("vyr"));
    env::get(env::HOME).map(PathBuf::from).or_else(xdg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn addresses_parse_or_say_why() {
        let tcp = |url: &str, tls, loopback| Address(Form::Tcp { url: url.into(), tls, loopback });
        for (text, address) in [
            ("unix:/run/vyr.sock", Address(Form::Unix("/run/vyr.sock".into()))),
            ("unix:///run/vyr.sock", Address(Form::Unix("/run/vyr.sock".into()))),
            ("unix:node.sock", Address(Form::Unix("node.sock".into()))),
            ("http://127.0.0.1:7070", tcp("http://127.0.0.1:7070", false, true)),
            ("http://[::1]:7070/", tcp("http://[::1]:7070", false, true)),
            ("http://localhost:7070", tcp("http://localhost:7070", false, true)),
            ("http://127.0.0.1.example:7070", tcp("http://127.0.0.1.example:7070", false, false)),
            ("https://node.example:7070", tcp("https://node.example:7070", true, false)),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address, "{text}");
        }
        for bad in
            ["", "unix:", "unix://", "localhost:7070", "127.0.0.1:7070", "ftp://a:1", "http://a:1/v2", "http://a:1?b"]
        {
            let error = bad.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
            assert!(error.next().is_some_and(|next| next.contains("unix:PATH")), "{bad}");
        }
        for bad in ["http://me:secret@a:1", "http://me:secret@a:1/v2", "http://me:secret@", "me:secret@a:1"] {
            assert!(!bad.parse::<Address>().unwrap_err().to_string().contains("secret"), "{bad}");
        }
    }

    #[test]
    fn tonic_sees_the_same_path() {
        for (text, uri) in [("unix:/run/vyr.sock", "unix:///run/vyr.sock"), ("unix:a/node.sock", "unix://a/node.sock")]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.uri().unwrap().as_str()), (text, uri));
        }
    }

    #[test]
    fn a_token_is_not_shown_to_a_far_host_in_the_clear() {
        let far = "http://node.example:7070".parse::<Address>().unwrap().may_see_token().unwrap_err();
        assert_eq!(far.kind(), ErrorKind::Usage);
        assert!(far.message().contains("plain http"), "{far}");
        for fine in ["https://node.example:7070", "http://127.0.0.1:7070", "unix:/run/vyr.sock"] {
            assert!(fine.parse::<Address>().unwrap().may_see_token().is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_data_folder_with_a_socket_is_a_node() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Address::of_home(Some(home.path())).unwrap().to_string(), DEFAULT);
        std::fs::write(home.path().join(SOCKET), "").unwrap();
        let address = Address::of_home(Some(home.path())).unwrap();
        assert_eq!(address.to_string(), format!("unix:{}", home.path().join(SOCKET).display()));
        assert!(address.is_local() && !address.is_tls());
    }
}
