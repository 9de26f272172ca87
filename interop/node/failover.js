// A web shop's background jobs, with the npm client `etcd3`: `failover.js ENDPOINT...`.
//
// What keeps leases alive, resumes watches and goes to another server is the client.

import { setTimeout as sleep } from 'node:timers/promises';
import { Etcd3, EtcdLockFailedError } from 'etcd3';
import { check, haveLeaderKilled, persist, unreachable, waitUntil } from './checks.js';

// Outlasts a member's restart, too: this client believes a lease lost once it was not renewed for long.
const TTL_SECS = 8;
const COUNT_EVERY_MS = 20;
const COUNTS_MIN = 50;
const STOCK = 40;

const client = new Etcd3({ hosts: process.argv.slice(2) });
const shop = client.namespace('shop/');
const text = bytes => bytes.toString();

// Counts orders, one up at a time. The client tries some calls again by itself, so that a count that was refused may be its own,
// as may one of unknown outcome: both are looked up.
class Orders {
  count = 0;
  acknowledged = new Map();
  goOn = true;

  start() {
    this.ended = this.run().catch(error => check('orders are counted to the end', `${error.stack}`, ''));
  }

  async run() {
    while (this.goOn) {
      await this.step(this.count + 1);
      await sleep(COUNT_EVERY_MS);
    }
  }

  async step(next) {
    try {
      const isNext = this.count ? shop.if('orders', 'Value', '==', this.count) : shop.if('orders', 'Version', '==', 0);
      const answer = await isNext.then(shop.put('orders').value(next)).commit();
      if (answer.succeeded) {
        this.acknowledged.set(next, answer.header.revision);
        this.count = next;
        return;
      }
    } catch (error) {
      if (!unreachable(error)) {
        throw error;
      }
      await sleep(50);
    }
    const found = await persist(() => shop.get('orders').number());
    if (found !== this.count && found !== next) {
      throw new Error(`${found} after ${this.count}`);
    }
    this.count = found;
  }

  async end() {
    this.goOn = false;
    await this.ended;
  }
}

// Every change in the namespace, as [revision, key, value]; what is gone has no value.
async function watchShop(revision) {
  const seen = [];
  const watcher = await shop.watch().prefix('').startRevision(revision).create();
  watcher.on('put', kv => seen.push([Number(kv.mod_revision), text(kv.key), text(kv.value)]));
  watcher.on('delete', kv => seen.push([Number(kv.mod_revision), text(kv.key), null]));
  watcher.on('error', error => check('the watch goes on', `${error}`, ''));
  seen.of = key => seen.filter(([, of]) => of === key).map(([, , value]) => value);
  return seen;
}

async function settings() {
  const start = (await shop.put('settings').value(JSON.stringify({ theme: 'light' }))).header.revision;
  const seen = await watchShop(start);
  const read = (await shop.get('settings').exec()).kvs[0].mod_revision;
  const replace = () =>
    shop
      .if('settings', 'Mod', '==', read)
      .then(shop.put('settings').value(JSON.stringify({ theme: 'dark' })))
      .else(shop.get('settings'))
      .commit();
  check('settings are replaced by who read them last', (await replace()).succeeded, true);
  check('and not by who read them before that', (await replace()).succeeded, false);
  check('they are what was put last', await shop.get('settings').json(), { theme: 'dark' });
  return seen;
}

// Takes a piece from stock in a software transaction; false if there is none.
function sell() {
  return shop.stm({ retries: 100 }).transact(async tx => {
    const left = await tx.get('stock').number();
    if (left === 0) {
      return false;
    }
    await tx.put('stock').value(left - 1);
    return true;
  });
}

async function tryLock() {
  const lock = shop.lock('locks/nightly').ttl(TTL_SECS);
  try {
    await persist(() => lock.acquire());
    return lock;
  } catch (error) {
    if (error instanceof EtcdLockFailedError) {
      return null;
    }
    throw error;
  }
}

async function main() {
  const seen = await settings();

  await shop.put('stock').value(STOCK);
  const sold = await Promise.all(Array.from({ length: 8 }, async () => {
    let pieces = 0;
    while (pieces < STOCK && (await sell())) {
      pieces += 1;
    }
    return pieces;
  }));
  check('transactions that get in each other\'s way sell each piece once', sold.reduce((a, b) => a + b), STOCK);
  await waitUntil('and are seen one by one', () => seen.of('stock').length === STOCK + 1);
  check('in their order', seen.of('stock'), Array.from({ length: STOCK + 1 }, (_, sale) => String(STOCK - sale)));

  const kept = shop.lease(TTL_SECS);
  let lost = null;
  kept.on('lost', error => (lost = `${error}`));
  await kept.put('workers/1').value('busy');
  const forsaken = shop.lease(TTL_SECS, { autoKeepAlive: false });
  await forsaken.put('workers/2').value('busy');
  const registered = (await shop.get('workers/1').exec()).kvs[0];

  const lock = await tryLock();
  check('the lock is had', lock !== null, true);
  const held = (await shop.get('locks/nightly').exec()).kvs[0];
  check('only by one', await tryLock(), null);

  const election = shop.election('cron', TTL_SECS);
  const first = election.campaign('worker 1');
  await first.wait();
  const second = shop.election('cron', TTL_SECS).campaign('worker 2');
  let secondElected = false;
  second.on('elected', () => (secondElected = true));
  for (const campaign of [first, second]) {
    campaign.on('error', error => check('the campaign goes on', `${error}`, ''));
  }
  check('the first to campaign is elected', await election.leader(), 'worker 1');

  const orders = new Orders();
  orders.start();
  await waitUntil('orders are counted', () => orders.count >= 20);
  await haveLeaderKilled();
  const counted = orders.count;
  await waitUntil('orders are counted on', () => orders.count >= counted + COUNTS_MIN);
  await waitUntil('the forsaken worker is gone at last', () => seen.of('workers/2').includes(null));
  await orders.end();

  const row = (await persist(() => shop.get('orders').exec())).kvs[0];
  check('each order counts once', [text(row.value), row.version], [String(orders.count), String(orders.count)]);
  await waitUntil('the watch has seen the last one', () => seen.of('orders').length >= orders.count);
  check('and every one before it, in order', seen.of('orders'), Array.from({ length: orders.count }, (_, place) => String(place + 1)));
  const revisions = seen.map(([revision]) => revision);
  check('each event once, as revisions rise', revisions.filter((revision, place) => place > 0 && revision <= revisions[place - 1]), []);
  const told = new Map(seen.filter(([, key]) => key === 'orders').map(([revision, , value]) => [Number(value), String(revision)]));
  check('at the revision that was acknowledged', [...orders.acknowledged].filter(([order, revision]) => told.get(order) !== revision), []);
  check('the other events as well', [seen.of('workers/1'), seen.of('workers/2'), seen.of('settings').length], [['busy'], ['busy', null], 2]);

  check('the lease that was kept alive is not lost', lost, null);
  const worker = (await persist(() => shop.get('workers/1').exec())).kvs[0];
  check('its worker is still the first', [worker?.create_revision, worker?.lease], [registered.create_revision, registered.lease]);
  const now = (await persist(() => shop.get('locks/nightly').exec())).kvs[0];
  check('the lock\'s holder holds what it took', [now?.create_revision, now?.lease], [held.create_revision, held.lease]);
  check('nobody else gets the lock', await tryLock(), null);
  check('the elected is still elected', [await persist(() => election.leader()), secondElected], ['worker 1', false]);

  await persist(() => first.proclaim('worker 1, about to go'));
  check('and proclaims', await persist(() => election.leader()), 'worker 1, about to go');
  await persist(() => first.resign());
  await waitUntil('who waited is elected in its place', () => secondElected);
  check('as all can see', await persist(() => election.leader()), 'worker 2');
  await persist(() => lock.release());
  check('the lock is free for others', (await tryLock()) !== null, true);
  await persist(() => kept.revoke());
  check('a worker that ends well is gone at once', await persist(() => shop.get('workers/1').string()), null);
  console.log('end');
}

await main();
process.exit(0);
