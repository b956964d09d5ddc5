//! The API's socket in the file system: made for its owner alone, and never in the place of
//! anything but a socket that nobody listens to any more.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen};
use rustix::net::{Shutdown, shutdown, socket_with};

/// Connections that wait to be taken.
const BACKLOG: i32 = 16;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Something is there that is no socket.
    #[error("{path} exists and is no socket: remove it or choose another path", path = .0.display())]
    NoSocket(PathBuf),
    /// Somebody listens there.
    #[error("another process answers on {path}: choose another path", path = .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("no socket can be made at {path}", path = .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that the machine's owner can connect to, removed when dropped.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, by which it is known again.
    identity: (u64, u64),
}

impl ApiSocket {
    /// Makes a socket at `path`, that its owner alone may use. One that is left there from a
    /// process that has ended is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |source: io::Error| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        // Two that find the same leftover must not remove each other's socket. The lock ends with
        // the descriptor.
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new("."))).map_err(io)?;
        flock(&directory, FlockOperation::LockExclusive).map_err(|errno| io(errno.into()))?;
        let listener = match listen_at(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_leftover(path)?;
                listen_at(path)
            }
            other => other,
        };
        let listener = listener.map_err(io)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(path).map_err(io)?,
        })
    }

    /// The next connection; an error when the socket was closed.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }

    /// Has [`accept`](Self::accept) fail from now on.
    pub(super) fn close(&self) {
        // It fails only on a socket that does not listen.
        let _ = shutdown(&self.listener, Shutdown::Both);
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // Somebody may have put something else there.
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let socket: OwnedFd = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Before it has a name, so that there is no moment in which others may connect: bind gives the
    // file the socket's own mode.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Removes a socket that nobody listens to.
fn remove_leftover(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::symlink_metadata(path).map_err(io)?;
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io)
        }
        Err(error) => Err(io(error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_is_its_owners_alone_and_goes_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        let socket = ApiSocket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_leftover_is_replaced_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        // What a process leaves that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let socket = ApiSocket::bind(&path).unwrap();
        assert!(matches!(
            ApiSocket::bind(&path).unwrap_err(),
            SocketError::InUse(_)
        ));
        UnixStream::connect(&path).unwrap();
        // Somebody else's file in its place stays.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(socket);
        assert!(matches!(
            ApiSocket::bind(&path).unwrap_err(),
            SocketError::NoSocket(_)
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_cannot_be_is_an_error_that_names_it() {
        for path in ["/nowhere/at/all", &"/tmp/x".repeat(50)] {
            let error = ApiSocket::bind(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
