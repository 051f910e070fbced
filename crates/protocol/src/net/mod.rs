//! Sockets: connections, how they are made and accepted, and the descriptors that they are made of.
//!
//! A leaf: nothing here knows what the bytes mean. The socket types of the runtime and of the standard library are named
//! here alone, so that another transport is one more variant of [`Conn`].

mod address;
mod bind;
mod conn;
mod connector;
mod descriptors;
mod inherited;
mod listener;
mod pipe;
mod port_holder;
mod scratch;
mod socket_file;
mod unix;

pub use address::{LONGEST_UNIX_PATH, ListenAddr};
pub use bind::bind;
pub use conn::{Asker, Conn, Liveness, own_uid};
pub use connector::Connector;
pub use descriptors::{Spare, Taken, raise_descriptor_limit};
pub use inherited::Inherited;
pub use listener::{Bound, Listener};
pub use pipe::{LEAST_SPLICED, Pipe};
pub use port_holder::listens_at;
pub use scratch::Scratch;
pub use socket_file::{SocketFile, bind_unix, is_listened_at};
