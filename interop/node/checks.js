// How a scenario tells what it found: a line for each check (../scenario.py reads them).

import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';

// Far longer than an election takes, and than a lease lives on after the death of a leader.
const PATIENCE_MS = 30_000;

export function check(name, found, expected) {
  if (isDeepStrictEqual(found, expected)) {
    console.log(`ok ${name}`);
  } else {
    console.log(`FAIL ${name}: found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
  }
}

export async function waitUntil(name, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!condition() && Date.now() < deadline) {
    await sleep(20);
  }
  check(name, condition(), true);
}

// Asks again while nobody answers: `call` must not mind to be made twice.
export async function persist(call) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!unreachable(error) || Date.now() > deadline) {
        throw error;
      }
      await sleep(100);
    }
  }
}

// A server that can't be reached, or one that knows no leader; the client also refuses by itself to ask a server that failed
// several times ("broken circuit").
export function unreachable(error) {
  return error.isBrokenCircuitError === true || /^(GRPC(Unavailable|Unknown|Internal|Cancelled|DeadlineExceeded))/.test(error.constructor.name);
}

// Returns once the leader is dead.
export async function haveLeaderKilled() {
  console.log('kill leader');
  const input = createInterface({ input: process.stdin });
  const [answer] = await new Promise(resolve => input.once('line', line => resolve([line])));
  input.close();
  check('somebody kills the leader', answer, 'killed');
}
