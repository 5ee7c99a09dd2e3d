//! Who may connect: an authentication module that knows the clients by a password, and may take its
//! time.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use super::{super::world::C, run::Simulation};
use crate::{
    auth::{Authenticator, Credentials, Decision, Request, Ticket},
    codec::ReasonCode,
};

/// What clients show, and what is known of them.
pub const PASSWORD: &[u8] = b"right";
pub const WRONG_PASSWORD: &[u8] = b"wrong";
/// Of users about whom the module thinks first.
pub const LATER: &str = "later";
/// The port of the first connection's peer; others have the next ones.
const FIRST_PORT: u16 = 10_000;

/// The module on one shard. All have one book.
#[derive(Clone, Default)]
pub struct Doorkeeper {
    shard: usize,
    book: Rc<RefCell<Book>>,
}

#[derive(Default)]
struct Book {
    /// Everybody may come in.
    open: bool,
    /// Questions without an answer, oldest first.
    asked: VecDeque<Asked>,
}

struct Asked {
    shard: usize,
    ticket: Ticket,
    c: C,
    decision: Decision,
    /// The connection has gone: the answer is on its way all the same.
    abandoned: bool,
}

impl Doorkeeper {
    pub fn on(&self, shard: usize) -> Self {
        Self { shard, book: Rc::clone(&self.book) }
    }

    /// From now on everybody may come in.
    pub fn open(&self) {
        self.book.borrow_mut().open = true;
    }

    /// Connections that wait for an answer.
    pub fn waiting(&self) -> Vec<C> {
        self.book.borrow().asked.iter().map(|asked| asked.c).collect()
    }

    fn take(&self, c: C) -> Option<Asked> {
        let asked = &mut self.book.borrow_mut().asked;
        asked.remove(asked.iter().position(|asked| asked.c == c)?)
    }
}

impl Authenticator for Doorkeeper {
    fn authenticate(&mut self, ticket: Ticket, request: Request<'_>) -> Decision {
        let Request::Connect(Credentials { user_name, password, peer, .. }) = request else {
            panic!("nobody asks for an exchange");
        };
        let mut book = self.book.borrow_mut();
        let decision = match (user_name, password) {
            _ if book.open => Decision::Accept { data: None },
            (None, _) => Decision::Refuse { reason: ReasonCode::NotAuthorized },
            (_, Some(PASSWORD)) => Decision::Accept { data: None },
            _ => Decision::Refuse { reason: ReasonCode::BadUserNameOrPassword },
        };
        if user_name != Some(LATER) {
            return decision;
        }
        let (shard, c) = (self.shard, usize::from(peer.port() - FIRST_PORT));
        book.asked.push_back(Asked { shard, ticket, c, decision, abandoned: false });
        Decision::Pending
    }

    fn abandoned(&mut self, ticket: Ticket) {
        let mut book = self.book.borrow_mut();
        let mut asked = book.asked.iter_mut();
        if let Some(asked) = asked.find(|a| a.shard == self.shard && a.ticket == ticket) {
            asked.abandoned = true;
        }
    }
}

impl Simulation {
    /// The module answers what it was asked about a connection, if it was.
    pub fn decide(&mut self, c: C) -> bool {
        if !self.doorkeeper.waiting().contains(&c) {
            return false;
        }
        let shard = self.w.peers[c].shard;
        self.go_on(shard);
        let Some(Asked { ticket, decision, abandoned, .. }) = self.doorkeeper.take(c) else {
            return true;
        };
        self.wake(shard);
        let now = self.w.now_on(shard);
        self.w.brokers[shard].on_authenticated(now, ticket, decision);
        self.next();
        let undecided = self.links[c].undecided.take();
        self.wrong.check(abandoned == self.links[c].over, || {
            format!("connection {c} is over, and its question is abandoned: {abandoned}")
        });
        if let Some(will) = undecided.filter(|_| !abandoned) {
            self.links[c].heard = now.monotonic;
            self.let_in(c, will);
        }
        self.observe(shard);
        true
    }
}
