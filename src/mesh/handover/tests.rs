#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use crate::mesh::{mesh, unshare_descriptor_table};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

/// What a descriptor number means to the calling thread.
fn meaning(number: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/thread-self/fd/{number}")).ok()
}

/// Runs a test with a descriptor table of its own: tables that other tests copy in the meantime hold
/// none of its descriptors open.
fn alone(test: impl FnOnce() + Send + 'static) {
    let test = || {
        unshare_descriptor_table().unwrap();
        test();
    };
    thread::spawn(test).join().unwrap();
}

fn say(mut stream: &UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

fn hear(mut stream: &UnixStream) -> String {
    let mut bytes = [0; 64];
    let len = stream.read(&mut bytes).unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

#[test]
fn a_descriptor_arrives_with_its_token() {
    let (sender, mut receiver) = handover(10).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    sender.send(7, there.as_fd()).unwrap();
    drop(there);
    let there = UnixStream::from(receiver.take(7).unwrap());
    say(&here, "hello");
    assert_eq!(hear(&there), "hello");
    assert!(rustix::io::fcntl_getfd(&there).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(receiver.take(7).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn descriptors_are_taken_in_any_order() {
    let (sender, mut receiver) = handover(10).unwrap();
    let pairs: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
    for (token, (_, there)) in pairs.iter().enumerate() {
        sender.clone().send(token as u64, there.as_fd()).unwrap();
    }
    for token in [3, 1, 4, 0, 2] {
        let there = UnixStream::from(receiver.take(token as u64).unwrap());
        say(&pairs[token].0, &token.to_string());
        assert_eq!(hear(&there), token.to_string());
    }
    assert_eq!((receiver.parked(), receiver.lost()), (0, 0));
}

#[test]
fn too_many_parked_descriptors_are_closed_and_counted() {
    alone(|| {
        let (sender, mut receiver) = handover(2).unwrap();
        let pairs: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
        for (token, (_, there)) in pairs.iter().enumerate() {
            sender.send(token as u64, there.as_fd()).unwrap();
        }
        let streams: Vec<_> = pairs.into_iter().map(|(here, _)| here).collect();
        assert!(receiver.take(4).is_ok());
        assert_eq!((receiver.parked(), receiver.lost()), (2, 2));
        assert!(receiver.take(0).is_ok() && receiver.take(1).is_ok());
        for token in [2, 3] {
            assert_eq!(receiver.take(token).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(hear(&streams[token as usize]), "", "the other end is closed");
        }
    });
}

#[test]
fn a_full_way_is_an_error_and_goes_on_when_it_is_emptied() {
    let (sender, mut receiver) = handover(1 << 20).unwrap();
    let (_here, there) = UnixStream::pair().unwrap();
    let mut sent = 0;
    let error = loop {
        match sender.send(sent, there.as_fd()) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1 << 20, "it has to end");
    };
    assert!(matches!(error, SendError::Full), "{error}");
    assert!(sent > 32, "only {sent}");
    for token in 0..sent {
        receiver.take(token).unwrap();
    }
    sender.send(sent, there.as_fd()).unwrap();
    receiver.take(sent).unwrap();
}

#[test]
fn a_closed_receiver_is_an_error() {
    alone(|| {
        let (sender, receiver) = handover(1).unwrap();
        drop(receiver);
        let (_here, there) = UnixStream::pair().unwrap();
        assert!(matches!(sender.send(1, there.as_fd()), Err(SendError::Io(_))));
    });
}

#[test]
fn nothing_comes_from_a_closed_sender() {
    alone(|| {
        let (sender, mut receiver) = handover(1).unwrap();
        drop(sender);
        assert_eq!(receiver.take(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

/// Descriptors cross between two threads that do not share a table, as the shards do: the
/// descriptor through the handover, the token through the mesh.
#[test]
fn sockets_cross_between_descriptor_tables() {
    const SOCKETS: u64 = 100;
    let mut ends = mesh::<u64>(2, 0).unwrap();
    let (accepting, home) = (ends.remove(0), ends.remove(0));
    let (sender, mut receiver) = handover(SOCKETS as usize).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            unshare_descriptor_table().unwrap();
            let mut clients = Vec::new();
            for token in 0..SOCKETS {
                let (client, served) = UnixStream::pair().unwrap();
                sender.send(token, served.as_fd()).unwrap();
                accepting.send(1, vec![token], 0);
                clients.push(client);
            }
            for (token, client) in clients.iter().enumerate() {
                say(client, &format!("I am {token}"));
                assert_eq!(hear(client), format!("You are {token}"));
            }
        });
        scope.spawn(move || {
            unshare_descriptor_table().unwrap();
            let mut served = 0;
            while served < SOCKETS {
                let Some(batch) = home.receive() else {
                    if home.prepare_sleep() {
                        // The eventfd was made before the tables parted, and works in both.
                        let mut fds = [PollFd::from_borrowed_fd(home.wake_fd(), PollFlags::IN)];
                        let lost = Timespec { tv_sec: 60, tv_nsec: 0 };
                        assert_eq!(poll(&mut fds, Some(&lost)).unwrap(), 1);
                        home.awake();
                        home.clear_wake();
                    }
                    continue;
                };
                for token in batch.items {
                    let stream = UnixStream::from(receiver.take(token).unwrap());
                    assert_eq!(hear(&stream), format!("I am {token}"));
                    say(&stream, &format!("You are {token}"));
                    served += 1;
                }
            }
        });
    });
}

#[test]
fn unshared_tables_are_apart_and_older_descriptors_in_both() {
    let (old, _other) = UnixStream::pair().unwrap();
    let before = meaning(old.as_raw_fd()).unwrap();
    let (number, meant) = thread::spawn({
        let before = before.clone();
        let old = old.as_raw_fd();
        move || {
            unshare_descriptor_table().unwrap();
            assert_eq!(meaning(old), Some(before));
            let (new, _other) = UnixStream::pair().unwrap();
            (new.as_raw_fd(), meaning(new.as_raw_fd()).unwrap())
        }
    })
    .join()
    .unwrap();
    assert_ne!(meaning(number), Some(meant));
    assert_eq!(meaning(old.as_raw_fd()), Some(before));
}

#[test]
fn a_full_descriptor_table_is_told_of() {
    alone(|| {
        let (sender, mut receiver) = handover(10).unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        sender.send(1, there.as_fd()).unwrap();
        sender.send(2, there.as_fd()).unwrap();
        sender.send(3, there.as_fd()).unwrap();
        drop(there);
        let mut filling = Vec::new();
        while let Ok(copy) = here.try_clone() {
            filling.push(copy);
        }
        let full = |error: io::Error| error.raw_os_error() == Some(Errno::MFILE.raw_os_error());
        assert!(full(receiver.take(2).unwrap_err()));
        assert!(full(receiver.take(1).unwrap_err()));
        filling.clear();
        receiver.take(3).unwrap();
    });
}
