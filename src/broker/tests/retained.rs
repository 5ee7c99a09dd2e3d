//! Retained messages: kept by one shard, asked for by others.

use super::{peer::Got, world::*};
use crate::{codec::*, stats::DropReason};

#[test]
fn a_retained_message_is_set_replaced_and_cleared_wherever_it_lives() {
    for owner in 0..3 {
        let mut w = World::new(3);
        let topic = w.topic_on(owner, "r/");
        let from = w.connect(Version::V5, &w.id_on(0, "from"));
        let subscriber = w.id_on(1, "to");
        for (payload, expected) in [("1", &["1"][..]), ("2", &["2"]), ("", &[])] {
            w.retain(from, &topic, payload.as_bytes(), Q1);
            for filter in [&*topic, "r/+", "#"] {
                let to = w.connect(Version::V5, &subscriber);
                w.subscribe(to, filter, Q1);
                let messages = w.messages(to);
                assert_eq!(messages.iter().map(|m| m.text()).collect::<Vec<_>>(), expected);
                assert!(messages.iter().all(|m| m.retain && m.qos == 1));
                w.disconnect(to);
            }
        }
        assert_eq!(w.totals().retained_messages, 0);
        w.end();
    }
}

#[test]
fn retain_handling() {
    use RetainHandling as H;
    let mut w = World::new(2);
    let c = w.connect(Version::V5, "c");
    w.retain(c, "a", b"x", Q0);
    let mut counts = Vec::new();
    for retain_handling in
        [H::DoNotSend, H::SendAtNewSubscribe, H::SendAtSubscribe, H::SendAtSubscribe]
    {
        let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(Q0) };
        w.subscribe_with(c, "a", options, 0);
        counts.push(w.messages(c).len());
    }
    w.unsubscribe(c, "a");
    let retain_handling = H::SendAtNewSubscribe;
    let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(Q0) };
    w.subscribe_with(c, "a", options, 3);
    let messages = w.messages(c);
    counts.push(messages.len());
    assert_eq!(counts, [0, 0, 1, 1, 1]);
    assert_eq!(messages[0].ids, [3]);
    w.end();
}

#[test]
fn shared_subscriptions_get_no_retained_messages() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.retain(c, "a", b"x", Q0);
    w.subscribe(c, "$share/g/a", Q1);
    assert!(w.messages(c).is_empty());
    w.end();
}

#[test]
fn a_wildcard_gets_all_of_all_shards_once_in_batches() {
    let mut w = World::new(4);
    let from = w.connect(Version::V5, "from");
    for n in 0..1_000 {
        w.retain(from, &format!("many/{n:04}/x"), b"x", Q0);
    }
    w.retain(from, "other", b"x", Q0);
    assert!(w.brokers.iter().all(|broker| broker.retained.len() > 64), "several batches each");
    for (filter, expected) in [("many/#", 1_000), ("many/+/x", 1_000), ("+/+/y", 0), ("#", 1_001)] {
        let to = w.connect(Version::V3_1_1, "to");
        w.subscribe(to, filter, Q1);
        let mut topics: Vec<_> = w.messages(to).into_iter().map(|m| m.topic).collect();
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), expected, "{filter}");
        w.disconnect(to);
    }
    w.end();
}

#[test]
fn large_retained_messages_come_as_fast_as_their_client_takes_them() {
    for shards in [1, 3] {
        for qos in [Q0, Q1] {
            let mut w = World::with(shards, |c| c.max_outbox_bytes = 10_000);
            let from = w.connect(Version::V5, "from");
            for n in 0..100 {
                w.retain(from, &format!("big/{n}"), &[b'x'; 3_000], Q0);
            }
            let to = w.connect(Version::V5, "to");
            w.subscribe(to, "big/#", qos);
            assert_eq!(
                w.messages(to).len(),
                100,
                "{shards} shards, {qos:?}, a client that keeps up"
            );

            let slow = w.connect(Version::V5, "slow");
            w.peers[slow].room = 5_000;
            w.ask(slow, &[("big/#", SubscriptionOptions::new(qos))], 0);
            let mut received = w.messages(slow).len();
            assert!(received < 3);
            let mut steps = 0;
            while received < 100 {
                w.make_room(slow, 4_000);
                received += w.messages(slow).len();
                steps += 1;
                assert!(steps < 1_000, "{shards} shards, {qos:?}: stuck at {received}");
            }
            assert_eq!(w.totals().publish_dropped.total(), 0);
            w.make_room(slow, usize::MAX);
            w.end();
        }
    }
}

#[test]
fn a_newer_message_is_not_followed_by_the_retained_one_that_it_replaces() {
    let mut w = World::new(2);
    let topic = w.topic_on(1, "r/");
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    w.retain(from, &topic, b"old", Q1);
    w.delivers_mail = false;
    w.ask(to, &[(&*topic, SubscriptionOptions::new(Q1))], 0);
    assert!(w.deliver_batch(0, 1), "the question");
    w.settle();
    w.retain(from, &topic, b"new", Q1);
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.texts(to), ["new"]);
    w.end();
}

#[test]
fn what_waits_for_retained_messages_is_bounded() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    let to = w.connected(&staying(Version::V5, &w.id_on(0, "to")));
    w.retain(from, &w.topic_on(1, "r/"), b"x", Q0);
    w.delivers_mail = false;
    // The answer does not come: every subscription waits for it.
    for _ in 0..100 {
        w.subscribe(to, "#", Q0);
        w.subscribe(to, "r/#", Q0);
    }
    for n in 0..5_000 {
        w.retain(from, &format!("r/{}", n % 2_500), b"y", Q0);
    }
    let waiting: Vec<_> = w.brokers[0]
        .clients
        .sessions
        .iter()
        .filter_map(|(_, client)| client.rare.as_ref())
        .map(|rare| rare.retained.waiting())
        .collect();
    let (questions, superseded) = waiting[0];
    assert!(questions <= 3, "{questions} questions");
    assert!(superseded <= 1_024, "{superseded} topics");
    w.end();
}

#[test]
fn nothing_retained_follows_an_unsubscribe() {
    for shards in [1, 2] {
        let mut w = World::with(shards, |c| c.max_outbox_bytes = 2_000);
        let from = w.connect(Version::V5, "from");
        for n in 0..500 {
            w.retain(from, &format!("r/{n}"), &[b'x'; 100], Q0);
        }
        let to = w.connect(Version::V5, "to");
        w.peers[to].room = 0;
        w.ask(to, &[("r/#", SubscriptionOptions::new(Q0))], 0);
        w.unsubscribe(to, "r/#");
        w.make_room(to, usize::MAX);
        let got = w.got(to);
        let at = got.iter().position(|got| matches!(got, Got::Unsuback(..))).unwrap();
        assert_eq!(at, got.len() - 1, "{} messages behind UNSUBACK", got.len() - at - 1);
        w.end();
    }
}

#[test]
fn an_answer_to_a_subscription_that_is_gone_is_thrown_away() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    for n in 0..300 {
        w.retain(from, &format!("r/{n}"), b"x", Q0);
    }
    let mine = w.brokers[0].retained.len();
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    w.delivers_mail = false;
    w.ask(to, &[("r/#", SubscriptionOptions::new(Q0))], 0);
    assert_eq!(w.messages(to).len(), mine, "the other shard is asked");
    w.unsubscribe(to, "r/#");
    w.subscribe(to, "r/1", Q1);
    w.delivers_mail = true;
    w.settle();
    let topics: Vec<_> = w.messages(to).into_iter().map(|m| (m.topic, m.qos)).collect();
    assert_eq!(topics, [("r/1".to_owned(), 0)], "what was asked for afterwards comes");
    w.end();
}

#[test]
fn an_answer_for_a_session_that_is_gone_is_not_given_to_the_next_one() {
    let mut w = World::new(2);
    let topic = w.topic_on(1, "r/");
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    w.retain(from, &topic, b"x", Q1);
    w.delivers_mail = false;
    let one = w.connect(Version::V5, &w.id_on(0, "one"));
    w.ask(one, &[(&*topic, SubscriptionOptions::new(Q1))], 0);
    w.disconnect(one);
    let two = w.connect(Version::V5, &w.id_on(0, "two"));
    w.delivers_mail = true;
    w.settle();
    assert!(w.messages(two).is_empty());
    w.end();
}

#[test]
fn a_session_fetches_on_when_its_client_returns() {
    let mut w = World::with(2, |c| c.max_outbox_bytes = 2_000);
    let from = w.connect(Version::V5, "from");
    for n in 0..300 {
        w.retain(from, &format!("r/{n:03}"), &[b'x'; 100], Q1);
    }
    let to = w.connected(&staying(Version::V5, "to"));
    w.peers[to].room = 0;
    w.ask(to, &[("r/#", SubscriptionOptions::new(Q1))], 0);
    w.cut(to);
    let to = w.connected(&staying(Version::V5, "to"));
    let mut topics: Vec<_> = w.messages(to).into_iter().map(|m| m.topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 300);
    w.end();
}

/// Shows: MQTT5-3.3.2-5, MQTT5-3.3.2-6
#[test]
fn retained_messages_expire_and_are_swept() {
    let mut w = World::new(2);
    let c = w.connect(Version::V5, "c");
    for n in 0..1_000 {
        let seconds = if n % 2 == 0 { 10 } else { 100 };
        let properties =
            PublishProperties { message_expiry_interval: Some(seconds), ..<_>::default() };
        w.publish_with(c, &format!("r/{n}"), b"x", Q0, true, properties);
    }
    w.jump(11_000);
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q0);
    let messages = w.messages(to);
    assert_eq!(messages.len(), 500);
    assert!(messages.iter().all(|m| m.expiry == Some(89)));
    for _ in 0..5 {
        w.jump(100);
    }
    assert_eq!(w.totals().retained_messages, 500);
    w.jump(100_000);
    for _ in 0..5 {
        w.jump(100);
    }
    assert_eq!((w.totals().retained_messages, w.totals().retained_bytes), (0, 0));
    assert!(!w.shared.may_have_retained());
    w.end();
}

#[test]
fn the_store_of_retained_messages_is_bounded() {
    let mut w = World::with(1, |c| c.max_retained_messages = 2);
    let c = w.connect(Version::V5, "c");
    for topic in ["a", "b", "c"] {
        w.retain(c, topic, b"1", Q0);
    }
    w.retain(c, "a", b"2", Q0);
    assert_eq!(w.dropped(DropReason::RetainedFull), 1);
    w.subscribe(c, "#", Q0);
    assert_eq!(w.texts(c), ["2", "1"]);
    for topic in ["a", "b", "c"] {
        w.retain(c, topic, b"", Q0);
    }
    assert!(!w.shared.may_have_retained());
    w.end();
}

#[test]
fn dollar_topics_are_retained_for_those_who_name_them() {
    let mut w = World::new(3);
    let c = w.connect(Version::V5, "c");
    w.retain(c, "$mine/x", b"1", Q0);
    w.subscribe(c, "#", Q0);
    assert!(w.messages(c).is_empty());
    w.subscribe(c, "$mine/#", Q0);
    assert_eq!(w.texts(c), ["1"]);
    w.end();
}

#[test]
fn retained_messages_use_up_credit() {
    let mut w = World::new(2);
    w.credit = 4;
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    let topic = w.topic_on(1, "r/");
    w.delivers_mail = false;
    for _ in 0..20 {
        w.retain(from, &topic, b"x", Q0);
    }
    assert!(w.peers[from].paused, "a flood towards a shard that is behind is not read on");
    w.delivers_mail = true;
    w.settle();
    assert!(!w.peers[from].paused && w.peers[from].unread.is_empty());
    assert_eq!(w.totals().retained_messages, 1, "and nothing is lost");
    w.end();
}

/// A subscription is made while a message to be retained is on its way from another shard: it gets
/// the new value, live or retained, and not the old one alone.
#[test]
fn a_subscription_made_beside_a_retained_publish_gets_the_new_value() {
    let mut w = World::new(3);
    let topic = w.topic_on(1, "r/");
    let from = w.connect(Version::V5, &w.id_on(2, "from"));
    w.retain(from, &topic, b"old", Q1);
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    // The publisher's shard has routed the message and not ended its turn ...
    w.handle_retain(from, &topic, b"new");
    // ... when the subscriber's shard, whose turn comes first, asks the owner.
    w.subscribe(to, &topic, Q1);
    assert_eq!(w.texts(to).last().map(String::as_str), Some("new"));
    w.end();
}

/// The same on a third shard, whose question is there before the message: only the second look of the
/// publisher's shard, behind the message, can see it.
#[test]
fn who_wants_a_message_is_looked_at_again_when_it_has_been_sent_to_be_retained() {
    for kept in [&[][..], &["old"]] {
        let mut w = World::new(3);
        let [here, owner, there] = [0, 1, 2];
        let topic = w.topic_on(owner, "r/");
        let from = w.connect(Version::V5, &w.id_on(here, "from"));
        let to = w.connect(Version::V5, &w.id_on(there, "to"));
        for text in kept {
            w.retain(from, &topic, text.as_bytes(), Q1);
        }
        w.delivers_mail = false;
        w.handle_retain(from, &topic, b"new");
        let packet_id = w.id();
        let filters = [(&*topic, SubscriptionOptions::new(Q1))];
        let (subscription_id, user_properties) = (None, <_>::default());
        let filters = filters[..].into();
        let subscribe = Subscribe { packet_id, subscription_id, user_properties, filters };
        w.peers[to].send(&Packet::Subscribe(subscribe));
        w.turn(there);
        assert!(w.deliver_batch(there, owner), "the question");
        w.delivers_mail = true;
        w.settle();
        assert_eq!(w.texts(to), ["new"], "before: {kept:?}");
        w.end();
    }
}

/// A shard that has sent a message to be retained is held up before it looks once more who wants it.
/// Meanwhile another one's newer message is retained, and somebody asks for it: the older message,
/// which comes live in the end, does not keep the answer away.
#[test]
fn an_older_live_message_of_a_third_shard_does_not_supersede_an_answer() {
    let mut w = World::new(4);
    let [slow, owner, here, quick] = [0, 1, 2, 3];
    let topic = w.topic_on(owner, "r/");
    let first = w.connect(Version::V5, &w.id_on(slow, "first"));
    let second = w.connect(Version::V5, &w.id_on(quick, "second"));
    let to = w.connect(Version::V5, &w.id_on(here, "to"));
    w.delivers_mail = false;
    w.handle_retain(first, &topic, b"old");
    let rest = w.send_first_mail(slow);
    w.retain(second, &topic, b"new", Q0);
    w.ask(to, &[(&*topic, SubscriptionOptions::new(Q1))], 0);
    w.send_last_mail(slow, rest);
    for from in [slow, quick, here] {
        assert!(w.deliver_batch(from, owner));
    }
    assert!(w.deliver_batch(slow, here), "the older message is sent live");
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.texts(to), ["old", "new"]);
    w.end();
}

/// Has a client take nothing, with so much waiting for it that no more is fetched.
fn fill_outbox(w: &mut World, from: C, to: C) {
    w.subscribe(to, "filler", Q0);
    w.peers[to].room = 0;
    w.publish(from, "filler", &[b'x'; 800], Q0);
}

/// The same on the shard that keeps the topic, with a client that takes nothing until all is over.
#[test]
fn an_older_live_message_does_not_supersede_what_its_own_shard_keeps() {
    let mut w = World::with(3, |c| c.max_outbox_bytes = 1_000);
    let [slow, here, quick] = [0, 1, 2];
    let topic = w.topic_on(here, "r/");
    let first = w.connect(Version::V5, &w.id_on(slow, "first"));
    let second = w.connect(Version::V5, &w.id_on(quick, "second"));
    let to = w.connect(Version::V5, &w.id_on(here, "to"));
    fill_outbox(&mut w, second, to);
    w.delivers_mail = false;
    w.handle_retain(first, &topic, b"old");
    let rest = w.send_first_mail(slow);
    w.retain(second, &topic, b"new", Q0);
    w.ask(to, &[(&*topic, SubscriptionOptions::new(Q1))], 0);
    w.send_last_mail(slow, rest);
    w.delivers_mail = true;
    w.make_room(to, usize::MAX);
    assert_eq!(w.texts(to).last().map(String::as_str), Some("new"));
    w.end();
}

/// A message to be retained is in the mailbox of the shard that keeps its topic, and its sender has
/// seen no subscription there, when that shard takes one: it finds what was retained before, and the
/// new message is delivered when it is taken in, but for those that came before it in the same batch.
#[test]
fn the_shard_that_keeps_a_topic_delivers_what_its_sender_knew_nobody_for() {
    let mut w = World::new(2);
    let topic = w.topic_on(0, "r/");
    let from = w.connect(Version::V5, &w.id_on(1, "from"));
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    w.retain(from, &topic, b"before", Q1);
    w.delivers_mail = false;
    w.handle_retain(from, &topic, b"older");
    w.retain(from, &topic, b"new", Q1);
    w.ask(to, &[(&*topic, SubscriptionOptions::new(Q1))], 0);
    w.delivers_mail = true;
    w.settle();
    let got: Vec<_> = w.messages(to).iter().map(|m| (m.text().to_owned(), m.retain)).collect();
    assert_eq!(got, [("before".to_owned(), true), ("new".to_owned(), false)]);
    w.retain(from, &topic, b"last", Q1);
    assert_eq!(w.texts(to), ["last"], "once, as usual");
    w.end();
}

/// A message that is published on the shard that keeps its topic does not supersede what that keeps,
/// which is no older.
#[test]
fn a_live_message_of_the_topics_own_shard_does_not_supersede_what_it_keeps() {
    let mut w = World::with(2, |c| c.max_outbox_bytes = 1_000);
    let topic = w.topic_on(0, "r/");
    let first = w.connect(Version::V5, &w.id_on(0, "first"));
    let second = w.connect(Version::V5, &w.id_on(1, "second"));
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    fill_outbox(&mut w, second, to);
    w.delivers_mail = false;
    w.retain(second, &topic, b"new", Q0);
    w.ask(to, &[(&*topic, SubscriptionOptions::new(Q1))], 0);
    w.retain(first, &topic, b"old", Q0);
    w.delivers_mail = true;
    w.settle();
    w.make_room(to, usize::MAX);
    assert_eq!(w.texts(to).last().map(String::as_str), Some("new"));
    w.end();
}

#[test]
fn retained_topics_looked_at_end_a_turn_and_a_session_goes_on_once() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    for n in 0..6_000 {
        w.retain(from, &format!("{n:04}/x"), b"x", Q0);
    }
    let to = w.connect(Version::V5, "to");
    for n in 0..100 {
        w.subscribe(to, &format!("+/x{n}"), Q0);
    }
    for n in 0..100 {
        let filter = format!("+/x{n}");
        let filters = [(&*filter, SubscriptionOptions::new(Q0))];
        let subscribe = Subscribe {
            packet_id: w.id(),
            subscription_id: None,
            user_properties: <_>::default(),
            filters: filters[..].into(),
        };
        w.peers[to].send(&Packet::Subscribe(subscribe));
    }
    let unread = w.peers[to].unread.len();
    w.turn(0);
    let left = w.peers[to].unread.len();
    assert!(left > unread / 2, "{left} of {unread} bytes are left for the next turn");
    assert_eq!(w.brokers[0].fetching.len(), 1);
    w.settle();
    assert_eq!(w.got(to).len(), 100, "all answered");
    w.end();
}

#[test]
fn questions_of_other_shards_share_a_turn() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    for n in 0..8_000 {
        w.retain(from, &format!("{n:04}/x"), b"x", Q0);
    }
    w.retain(from, &w.topic_on(0, "found/"), b"found", Q0);
    let clients: Vec<_> =
        (0..20).map(|n| w.connect(Version::V5, &w.id_on(1, &format!("to{n}")))).collect();
    w.delivers_mail = false;
    for c in &clients {
        w.ask(
            *c,
            &[
                ("+/nobody", SubscriptionOptions::new(Q0)),
                ("found/+", SubscriptionOptions::new(Q0)),
            ],
            0,
        );
    }
    while w.deliver_batch(1, 0) {}
    assert!(w.brokers[0].queries.len() > 5, "left for later");
    assert!(w.brokers[0].has_work());
    w.delivers_mail = true;
    w.settle();
    for c in clients {
        assert_eq!(w.texts(c), ["found"]);
    }
    w.end();
}

#[test]
fn what_expired_is_swept_below_dollar_topics_too() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    let properties = || PublishProperties { message_expiry_interval: Some(5), ..<_>::default() };
    for topic in ["$mine/a", "a", "z"] {
        w.publish_with(c, topic, b"x", Q0, true, properties());
    }
    w.retain(c, "$mine/stays", b"x", Q0);
    w.advance(6_000);
    w.advance(1_000);
    assert_eq!(w.totals().retained_messages, 1);
    assert!(!w.shared.may_have_retained(), "none outside $-topics");
    w.end();
}
