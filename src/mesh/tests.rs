//! Tests of the mailboxes with real threads and eventfds.
