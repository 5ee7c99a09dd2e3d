// MQTT.js against a broker: mqttjs_test.mjs PORT SHARDS. The package is found through the folder
// that MQTTJS names.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import process from "node:process";

const find = createRequire(resolve(process.env.MQTTJS ?? ".", "package.json"));
const mqtt = find("mqtt");
const mqttPacket = find("mqtt-packet");

const [port, shards] = process.argv.slice(2).map(Number);
const WAIT = 10_000;
const CHECK = 45_000;
const QUIET = 300;
const VERSIONS = { 3: "3.1", 4: "3.1.1", 5: "5.0" };
// The broker's default: docs/configuration.md.
const MAX_INFLIGHT = 32;

let names = 0;
const unique = (kind) => `${kind}${names++}`;
const range = (first, last) => Array.from({ length: last - first }, (_, n) => String(first + n));

function within(promise, milliseconds, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const once = (emitter, event) =>
  within(new Promise((resolve) => emitter.once(event, (...values) => resolve(values))), WAIT, event);

// A client whose messages queue up until they are asked for.
class Client {
  constructor(protocolVersion, options = {}) {
    this.messages = [];
    this.wake = () => {};
    this.client = mqtt.connect({
      host: "127.0.0.1",
      port,
      protocolVersion,
      protocolId: protocolVersion === 3 ? "MQIsdp" : "MQTT",
      clientId: unique("js"),
      reconnectPeriod: 0,
      ...options,
    });
    this.client.on("error", () => {});
    this.client.on("message", (topic, payload, packet) => {
      this.messages.push({ topic, payload: payload.toString(), packet });
      this.wake();
    });
  }

  static async open(protocolVersion, options) {
    const client = new Client(protocolVersion, options);
    [client.connack] = await once(client.client, "connect");
    return client;
  }

  async take(count) {
    const enough = async () => {
      while (this.messages.length < count) {
        await new Promise((resolve) => (this.wake = resolve));
      }
    };
    await within(enough(), CHECK - 5000, `${count} messages (${this.messages.length} came)`)
      .catch((error) => { throw new Error(`${error.message}; ${this.messages.length} came`); });
    return this.messages.splice(0, count);
  }

  async next() {
    return (await this.take(1))[0];
  }

  async payloads(count) {
    return (await this.take(count)).map((message) => message.payload);
  }

  async nothing(milliseconds = QUIET) {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    assert.deepEqual(this.messages.map((m) => m.payload), [], "messages that should not have come");
  }

  subscribe(topic, options = { qos: 0 }) {
    return within(this.client.subscribeAsync(topic, options), WAIT, "SUBACK");
  }

  publish(topic, payload, options = { qos: 1 }) {
    return within(this.client.publishAsync(topic, payload, options), WAIT, "acknowledgement");
  }

  // Ends the connection without a DISCONNECT.
  drop() {
    this.client.stream.destroy();
  }

  close() {
    return within(this.client.endAsync(), WAIT, "end");
  }
}

// Runs `body` with clients that are closed behind it.
async function withClients(version, count, body) {
  const clients = [];
  try {
    for (let n = 0; n < count; n++) {
      clients.push(await Client.open(version));
    }
    await body(...clients);
  } finally {
    await Promise.all(clients.map((client) => client.client.endAsync(true)));
  }
}

const everyQos = (version) => withClients(version, 2, async (subscriber, publisher) => {
  const topic = unique("js/plain/");
  for (const granted of [0, 1, 2]) {
    const [grant] = await subscriber.subscribe(topic, { qos: granted });
    assert.equal(grant.qos, granted, "the SUBACK");
    for (const qos of [0, 1, 2]) {
      await publisher.publish(topic, "x", { qos });
      const { packet } = await subscriber.next();
      assert.equal(packet.qos, Math.min(qos, granted), "the QoS");
      assert.equal(packet.retain, false, "RETAIN");
    }
  }
  await subscriber.nothing();
});

const wildcardsAndUnsubscribe = (version) => withClients(version, 2, async (subscriber, publisher) => {
  const base = unique("js/wild");
  await subscriber.subscribe([`${base}/+/x`, `${base}/#`], { qos: 1 });
  await publisher.publish(`${base}/1/x`, "both");
  await publisher.publish(base, "parent");
  assert.deepEqual(await subscriber.payloads(2), ["both", "parent"]);
  await within(subscriber.client.unsubscribeAsync(`${base}/#`), WAIT, "UNSUBACK");
  await publisher.publish(`${base}/1/y`, "none");
  await publisher.publish(`${base}/2/x`, "one");
  assert.deepEqual(await subscriber.payloads(1), ["one"]);
  await subscriber.nothing();
});

const retained = (version) => withClients(version, 3, async (publisher, first, second) => {
  const topic = unique("js/kept/");
  await publisher.publish(topic, "a", { qos: 1, retain: true });
  await publisher.publish(topic, "b", { qos: 2, retain: true });
  await first.subscribe(topic, { qos: 2 });
  const { payload, packet } = await first.next();
  assert.deepEqual([payload, packet.qos, packet.retain], ["b", 2, true]);
  await publisher.publish(topic, "", { qos: 1, retain: true });
  assert.equal((await first.next()).payload, "", "the message that clears");
  await second.subscribe(topic);
  await second.nothing();
});

const will = (version) => withClients(version, 1, async (watcher) => {
  const topic = unique("js/will/");
  const options = { will: { topic, payload: Buffer.from("gone"), qos: 1, retain: false } };
  await watcher.subscribe(topic, { qos: 1 });
  await (await Client.open(version, options)).close();
  await watcher.nothing();
  (await Client.open(version, options)).drop();
  assert.equal((await watcher.next()).payload, "gone");
});

const exactlyOnce = (version) => withClients(version, 2, async (subscriber, publisher) => {
  const topic = unique("js/exact/");
  const count = 1000;
  await subscriber.subscribe(topic, { qos: 2 });
  // As many at a time as the broker's Receive Maximum: MQTT.js leaves that to its user.
  const numbers = range(0, count);
  for (let n = 0; n < count; n += 50) {
    await Promise.all(numbers.slice(n, n + 50).map((payload) => publisher.publish(topic, payload, { qos: 2 })));
  }
  assert.deepEqual(await subscriber.payloads(count), numbers, "the messages");
  await subscriber.nothing();
});

const reconnectsWithSession = (version) => withClients(version, 1, async (publisher) => {
  const topic = unique("js/session/");
  const client = await Client.open(version, {
    clean: false,
    reconnectPeriod: 20,
    resubscribe: false,
    properties: version === 5 ? { sessionExpiryInterval: 60 } : undefined,
  });
  assert.equal(client.connack.sessionPresent, false, "session present at first");
  await client.subscribe(topic, { qos: 2 });
  const expected = [];
  for (let round = 0; round < 5; round++) {
    const back = once(client.client, "connect");
    client.drop();
    const payloads = range(round * 20, round * 20 + 20);
    expected.push(...payloads);
    for (const payload of payloads) {
      await publisher.publish(topic, payload, { qos: 1 + (round % 2) });
    }
    const [connack] = await back;
    // The CONNACK of MQTT 3.1 does not say.
    assert.equal(connack.sessionPresent, version !== 3, "session present");
  }
  // A QoS 2 message is handed on at its PUBREL: the order counts for each QoS.
  const got = await client.take(expected.length);
  for (const qos of [1, 2]) {
    const ofThisQos = (_, n) => 1 + (Math.floor(n / 20) % 2) === qos;
    const payloads = got.filter((message) => message.packet.qos === qos).map((message) => message.payload);
    assert.deepEqual(payloads, expected.filter(ofThisQos), `the messages of QoS ${qos}`);
  }
  await client.nothing();
  await client.close();
  const clean = await Client.open(version, { clientId: client.client.options.clientId, clean: true });
  assert.equal(clean.connack.sessionPresent, false, "session present after a clean start");
  await clean.close();
});

const publishesAcrossReconnects = (version) => withClients(version, 1, async (subscriber) => {
  const topic = unique("js/resend/");
  await subscriber.subscribe(topic, { qos: 2 });
  const client = await Client.open(version, {
    clean: false,
    reconnectPeriod: 20,
    properties: version === 5 ? { sessionExpiryInterval: 60 } : undefined,
  });
  const numbers = range(0, 200);
  for (let n = 0; n < numbers.length; n += 20) {
    const back = once(client.client, "connect");
    const sent = numbers.slice(n, n + 20).map((payload) => client.publish(topic, payload, { qos: 2 }));
    client.drop();
    await back;
    await Promise.all(sent);
  }
  const got = await subscriber.payloads(numbers.length);
  assert.deepEqual(got.map(Number).sort((a, b) => a - b), numbers.map(Number), "the messages");
  await subscriber.nothing();
  await client.close();
});

const shared = (version) => withClients(version, 3, async (one, two, publisher) => {
  const topic = unique("js/shared/");
  const numbers = range(0, 200);
  await one.subscribe(`$share/team/${topic}`, { qos: 1 });
  await two.subscribe(`$share/team/${topic}`, { qos: 1 });
  await Promise.all(numbers.map((payload) => publisher.publish(topic, payload, { qos: 0 })));
  const got = [...(await one.payloads(100)), ...(await two.payloads(100))];
  assert.deepEqual(got.map(Number).sort((a, b) => a - b), numbers.map(Number), "both shares");
  await one.nothing();
  await two.nothing();
});

const largePayload = (version) => withClients(version, 2, async (subscriber, publisher) => {
  const topic = unique("js/large/");
  const payload = "0123456789abcdef".repeat(60_000);
  await subscriber.subscribe(topic, { qos: 1 });
  await publisher.publish(topic, payload);
  assert.ok((await subscriber.next()).payload === payload, "the payload differs");
});

const takeOver = async (version) => {
  const clientId = unique("js-twin");
  const first = await Client.open(version, { clientId, clean: false });
  const closed = once(first.client, "close");
  const reason = version === 5 ? once(first.client, "disconnect") : undefined;
  const second = await Client.open(version, { clientId, clean: false });
  await closed;
  if (reason) {
    assert.equal((await reason)[0].reasonCode, 0x8e, "the reason code");
  }
  await second.close();
};

const fanOut = (version) => withClients(version, 50, async (publisher, ...subscribers) => {
  const topic = unique("js/crowd/");
  await Promise.all(subscribers.map((subscriber) => subscriber.subscribe(topic, { qos: 1 })));
  for (const payload of range(0, 20)) {
    await publisher.publish(topic, payload);
  }
  for (const subscriber of subscribers) {
    assert.deepEqual(await subscriber.payloads(20), range(0, 20));
  }
});

const publishProperties = () => withClients(5, 2, async (subscriber, publisher) => {
  const topic = unique("js/props/");
  await subscriber.subscribe(topic, { qos: 2 });
  const properties = {
    payloadFormatIndicator: true,
    messageExpiryInterval: 60,
    contentType: "text/plain",
    responseTopic: "answers",
    correlationData: Buffer.from([0, 1]),
    userProperties: { b: ["1", "3"], a: "2" },
  };
  await publisher.publish(topic, "ü", { qos: 2, properties });
  const got = (await subscriber.next()).packet.properties;
  const { messageExpiryInterval, ...others } = got;
  assert.ok(messageExpiryInterval >= 58 && messageExpiryInterval <= 60, `expiry ${messageExpiryInterval}`);
  const expected = { ...properties };
  delete expected.messageExpiryInterval;
  assert.deepEqual({ ...others, userProperties: { ...others.userProperties } }, expected);
});

const subscriptionOptions = () => withClients(5, 2, async (client, other) => {
  const topic = unique("js/options/");
  await other.publish(topic, "kept", { qos: 1, retain: true });
  const subscribe = (options) => client.subscribe(topic, { qos: 1, ...options });
  await subscribe({ rh: 2, nl: true, rap: true, properties: { subscriptionIdentifier: 7 } });
  await client.nothing();
  await client.publish(topic, "own");
  await other.publish(topic, "flag", { qos: 1, retain: true });
  const message = await client.next();
  assert.deepEqual([message.payload, message.packet.retain], ["flag", true], "retain as published");
  assert.equal(message.packet.properties.subscriptionIdentifier, 7, "the subscription identifier");
  await subscribe({ rh: 1 });
  await client.nothing();
  await subscribe({ rh: 0 });
  assert.equal((await client.next()).payload, "flag", "the retained message");
  await other.publish(topic, "", { qos: 1, retain: true });
});

const topicAliases = async () => {
  const topic = unique("js/alias/");
  const publisher = await Client.open(5, { autoAssignTopicAlias: true });
  const subscriber = await Client.open(5, { properties: { topicAliasMaximum: 2 } });
  await subscriber.subscribe(`${topic}/#`, { qos: 1 });
  const topics = range(0, 60).map((n) => `${topic}/${n % 3}`);
  for (const name of topics) {
    await publisher.publish(name, name);
  }
  // MQTT.js puts the topic back in its place.
  const got = await subscriber.take(topics.length);
  assert.deepEqual(got.map((message) => message.topic), topics);
  assert.deepEqual(got.map((message) => message.payload), topics);
  const aliased = got.filter((message) => message.packet.properties?.topicAlias);
  assert.ok(aliased.length > 0, "the broker uses no alias");
  await publisher.close();
  await subscriber.close();
};

// The unacknowledged messages that a client has been sent, while it acknowledges none.
async function inFlight(version, topic, count, options) {
  const client = await Client.open(version, options);
  const publisher = await Client.open(version);
  // MQTT.js reads one message and goes on when it is called back: so the stream itself is read.
  const parser = mqttPacket.parser({ protocolVersion: version });
  const held = [];
  let sent = 0;
  parser.on("packet", (packet) => (sent += packet.cmd === "publish" ? 1 : 0));
  await client.subscribe(topic, { qos: 1 });
  client.client.stream.on("data", (bytes) => parser.parse(bytes));
  client.client.handleMessage = (_packet, done) => held.push(done);
  for (const payload of range(0, count)) {
    await publisher.publish(topic, payload);
  }
  while (sent === 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  await new Promise((resolve) => setTimeout(resolve, QUIET));
  const limit = sent;
  client.client.handleMessage = (_packet, done) => done();
  held.forEach((done) => done());
  assert.deepEqual(await client.payloads(count), range(0, count), "the messages");
  await publisher.close();
  await client.close();
  return limit;
}

const flowControl = async (version) => {
  const topic = unique("js/flow/");
  assert.equal(await inFlight(version, topic, MAX_INFLIGHT + 8), MAX_INFLIGHT, "messages in flight");
};

const receiveMaximum = async () => {
  const options = { properties: { receiveMaximum: 5 } };
  assert.equal(await inFlight(5, unique("js/window/"), 20, options), 5, "messages in flight");
};

const willDelay = () => withClients(5, 1, async (watcher) => {
  const topic = unique("js/delayed/");
  const clientId = unique("js-delayer");
  const visit = () => Client.open(5, {
    clientId,
    clean: false,
    properties: { sessionExpiryInterval: 60 },
    will: { topic, payload: Buffer.from("late"), qos: 1, retain: false, properties: { willDelayInterval: 1 } },
  });
  await watcher.subscribe(topic, { qos: 1 });
  (await visit()).drop();
  await watcher.nothing(500);
  assert.equal((await watcher.next()).payload, "late");
  (await visit()).drop();
  const client = await visit();
  await watcher.nothing(1500);
  await client.close();
});

let failed = 0;

async function check(version, name, body) {
  const label = `mqtt.js, ${shards} shard${shards === 1 ? "" : "s"}: MQTT ${VERSIONS[version]}, ${name}`;
  try {
    await within(body(version), CHECK, "the check");
    console.log(`ok   ${label}`);
  } catch (error) {
    failed++;
    const line = /mqttjs_test\.mjs:(\d+)/.exec(error.stack)?.[1];
    console.log(`FAIL ${label}: ${String(error.message).replace(/\s+/g, " ").slice(0, 400)} (line ${line})`);
  }
}

for (const version of [3, 4, 5]) {
  await check(version, "every QoS", everyQos);
  await check(version, "wildcards and unsubscribe", wildcardsAndUnsubscribe);
  await check(version, "retained", retained);
  await check(version, "will", will);
  await check(version, "1,000 messages exactly once", exactlyOnce);
  await check(version, "reconnects with its session", reconnectsWithSession);
  await check(version, "publishes across reconnects", publishesAcrossReconnects);
  await check(version, "shared subscription", shared);
  await check(version, "large payload", largePayload);
  await check(version, "take-over", takeOver);
  await check(version, "fan-out", fanOut);
  await check(version, "flow control", flowControl);
}
await check(5, "publish properties", publishProperties);
await check(5, "subscription options", subscriptionOptions);
await check(5, "topic aliases", topicAliases);
await check(5, "receive maximum", receiveMaximum);
await check(5, "will delay", willDelay);
process.exit(failed ? 1 : 0);
