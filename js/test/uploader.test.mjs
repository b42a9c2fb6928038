// What an upload does, against a real server that misbehaves.

import assert from 'node:assert/strict';
import { openAsBlob } from 'node:fs';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';

import { SHORT_TIMES, content, ended, fileOf, incomingAt, nodeTransport, noting, testEnvironment, until } from './support/client.mjs';
import { TestServer } from './support/server.mjs';

const BYTES = content(600_000);

/** @type {TestServer} */
let server;

beforeEach(async () => {
  server = await new TestServer().start();
  server.ticket('t');
});

afterEach(async () => {
  server.changed();
  await server.kill();
});

/** @param {File} [file] @param {import('../src/environment.js').Environment} [environment] */
function uploader(file = fileOf(BYTES), environment = testEnvironment()) {
  return incomingAt(server, environment).Uploader('t', file);
}

/** @param {string} [id] */
function ticket(id = 't') {
  return /** @type {import('./support/server.mjs').Ticket} */ (server.tickets.get(id));
}

/** Wait until the server has taken so many bytes. @param {number} bytes */
async function kept(bytes) {
  while (ticket().bytes.length < bytes) {
    await new Promise(setImmediate);
  }
}

/** @returns {{ promise: Promise<void>, resolve: () => void }} */
function gate() {
  /** @type {() => void} */
  let resolve = () => {};
  const promise = new Promise((/** @type {(value: void) => void} */ r) => {
    resolve = r;
  });
  return { promise, resolve };
}

describe('a plain upload', () => {
  test('takes the file to the server and tells its way to the web app', async () => {
    server.client_data = { link: '/files/1' };
    const upload = uploader();
    /** @type {string[]} */
    const told = [];
    upload.onprogress = (u) => told.at(-1) !== u.state_msg && told.push(u.state_msg);
    assert.equal(upload.state_msg, 'waiting');
    assert.equal(await ended(upload), 'finished');
    assert.deepEqual(ticket().bytes, BYTES);
    assert.deepEqual(told.slice(-3), ['arrived', 'being handed over', 'handed over']);
    assert.deepEqual(upload.client_data, { link: '/files/1' });
    assert.equal(upload.frac_complete, 1);
    assert.equal(upload.finished, true);
    assert.deepEqual(
      server.requests.slice(0, 3).map((r) => r.method),
      ['HEAD', 'POST', 'PATCH'],
    );
  });

  test('tells the server the name, type, time and path of the file, in base64 of UTF-8', async () => {
    const file = fileOf(BYTES, 'Ünïcode 🎉.mp4');
    Object.defineProperty(file, 'webkitRelativePath', { value: 'trip/Ünïcode 🎉.mp4' });
    await ended(uploader(file));
    const metadata = Object.fromEntries(
      String(ticket().metadata)
        .split(',')
        .map((pair) => pair.split(' '))
        .map(([key, value]) => [key, Buffer.from(String(value), 'base64').toString()]),
    );
    assert.deepEqual(metadata, {
      filename: 'Ünïcode 🎉.mp4',
      filetype: 'video/mp4',
      lastModified: '1700000000000',
      relativePath: 'trip/Ünïcode 🎉.mp4',
    });
  });

  test('a file of 0 bytes arrives', async () => {
    const upload = uploader(fileOf(Buffer.alloc(0)));
    assert.equal(upload.frac_complete, 0);
    assert.equal(await ended(upload), 'finished');
    assert.equal(upload.frac_complete, 1);
    assert.equal(server.count('PATCH'), 0);
    assert.equal(ticket().length, 0);
  });

  test('a Blob without a name and a time arrives', async () => {
    const { Uploader } = incomingAt(server);
    const upload = Uploader('t', new Blob(['hello']));
    assert.equal(upload.filename, '');
    assert.equal(await ended(upload), 'finished');
    assert.equal(ticket().bytes.toString(), 'hello');
  });

  test('Uploader works with new, without it, and with an upload_url for a ticket', async () => {
    const { Uploader } = incomingAt(server);
    server.ticket('u');
    server.ticket('v');
    const uploads = [
      new /** @type {any} */ (Uploader)('t', fileOf(BYTES)),
      Uploader(`${server.base_url}/incoming/1.0/frontend/uploads/u`, fileOf(BYTES)),
      Uploader('/incoming/1.0/frontend/uploads/v', fileOf(BYTES)),
    ];
    for (const upload of uploads) {
      assert.ok(upload instanceof Uploader);
    }
    assert.deepEqual(await Promise.all(uploads.map(ended)), ['finished', 'finished', 'finished']);
    assert.deepEqual([...server.tickets.values()].map((t) => t.bytes.length), [BYTES.length, BYTES.length, BYTES.length]);
  });

  test('nothing is sent before start(), and a second start() does nothing', async () => {
    const upload = uploader();
    assert.equal(upload.state, 'idle');
    assert.equal(upload.can_pause, false);
    const end = ended(upload);
    upload.start();
    await end;
    assert.equal(server.count('POST'), 1);
  });

  test('progress is told once a picture, however often bytes move', async () => {
    /** @type {(() => void)[]} */
    const frames = [];
    const environment = testEnvironment({ frame: (callback) => void frames.push(callback) });
    const upload = uploader(fileOf(BYTES), environment);
    let told = 0;
    upload.onprogress = () => (told += 1);
    const { promise, resolve } = gate();
    server.next('PATCH', { hold_answer: promise });
    const end = ended(upload);
    while (upload.bytes_tx < BYTES.length) {
      await new Promise(setImmediate);
    }
    assert.equal(told, 0);
    assert.equal(frames.length, 1);
    frames.pop()?.();
    assert.equal(told, 1);
    assert.equal(upload.bytes_ahead, BYTES.length);
    assert.ok(upload.frac_complete < 1, 'not all there before the server has said so');
    assert.equal(upload.chunks_tx_now, 2);
    assert.equal(upload.chunks_ahead, 2);
    resolve();
    assert.equal(await end, 'finished');
  });

  test('exceptions in the callbacks of the page are reported and hurt nothing', async () => {
    const environment = testEnvironment();
    const upload = uploader(fileOf(BYTES), environment);
    upload.onprogress = () => {
      throw new Error('page');
    };
    const end = new Promise((resolve) => {
      upload.onfinished = () => {
        resolve(undefined);
        throw new Error('page, at the end');
      };
    });
    upload.start();
    await end;
    assert.equal(upload.finished, true);
    const messages = new Set(environment.reported.map((error) => /** @type {Error} */ (error).message));
    assert.deepEqual(messages, new Set(['page', 'page, at the end']));
  });
});

describe('trouble on the way', () => {
  /** @type {[string, string, import('./support/server.mjs').Fault, RegExp?][]} */
  const passing = [
    ['no answer to the first question', 'HEAD', { drop: true }],
    ['HEAD held in vain', 'HEAD', { status: 423, headers: { 'Retry-After': '0' } }],
    ['HEAD answered by a balancer without a server', 'HEAD', { status: 503 }],
    ['HEAD answered by something that is not the service', 'HEAD', { status: 200 }],
    ['creation refused for now', 'POST', { status: 503 }],
    ['creation done, its answer lost', 'POST', { lose_answer: true }],
    ['connection cut in the middle of the bytes', 'PATCH', { cut_after: 200_000 }],
    ['another offset than believed', 'PATCH', { status: 409, headers: { 'Upload-Offset': '0' } }],
    ['draining', 'PATCH', { status: 503, headers: { 'Retry-After': '0', 'Upload-Offset': '0' } }],
    ['disk full', 'PATCH', { status: 507, problem: { code: 'no_space', detail: 'There is no room.' } }],
    ['a lock', 'PATCH', { status: 423 }],
    ['a wrong checksum', 'PATCH', { status: 460 }],
    ['too many requests', 'PATCH', { status: 429, headers: { 'Retry-After': '0' } }],
    ['all bytes taken, the answer lost', 'PATCH', { lose_answer: true }],
    ['success told without an offset', 'PATCH', { status: 204 }],
    ['success told, but nothing taken', 'PATCH', { status: 204, headers: { 'Upload-Offset': '0' } }],
    ['no answer about the hand-over', 'GET', { drop: true }, /status/],
    ['no status about the hand-over', 'GET', { status: 502 }, /status/],
    ['something else where the status should be', 'GET', { status: 200, problem: { hotel: 'wifi' } }, /status/],
  ];
  for (const [what, method, fault, path] of passing) {
    test(`passes: ${what}`, async () => {
      server.next(method, fault, path);
      /** @type {number[]} */
      const waits_ms = [];
      const upload = uploader(fileOf(BYTES), testEnvironment({ sleep: noting(waits_ms) }));
      assert.equal(await ended(upload), 'finished');
      assert.deepEqual(ticket().bytes, BYTES);
      assert.ok(ticket().beginnings === 1 || method === 'POST', 'begun once');
      assert.equal(waits_ms.length, 1, 'tried again once, not in a tight loop');
    });
  }

  test('an answer to the creation without an offset is followed by a question', async () => {
    server.next('POST', { status: 201 });
    assert.equal(await ended(uploader()), 'finished');
    assert.deepEqual(ticket().bytes, BYTES);
  });

  test('a server that takes only some of the bytes gets the others', async () => {
    server.next('PATCH', { keep: 250_000 }).next('PATCH', { keep: 250_000 });
    const upload = uploader();
    let too_early = false;
    upload.onprogress = (u) => (too_early ||= u.frac_complete === 1 && ticket().bytes.length < BYTES.length);
    assert.equal(await ended(upload), 'finished');
    assert.equal(too_early, false, 'told that it has arrived, too early');
    const offsets = server.requests.filter((r) => r.method === 'PATCH').map((r) => r.headers['upload-offset']);
    assert.deepEqual(offsets, ['0', '250000', '500000']);
    assert.deepEqual(ticket().bytes, BYTES);
  });

  test('waits longer and longer while nothing gets through, and short again after progress', async () => {
    for (const cut_after of [0, 0, 0, 100_000, 0, 0]) {
      server.next('PATCH', cut_after ? { cut_after } : { drop: true });
    }
    /** @type {number[]} */
    const waits_ms = [];
    const times = { ...SHORT_TIMES, backoff_first_ms: 4, backoff_max_ms: 16 };
    const environment = testEnvironment({ sleep: noting(waits_ms), random: () => 0, times });
    assert.equal(await ended(uploader(fileOf(BYTES), environment)), 'finished');
    // The fourth cut comes after 100,000 bytes, but that is not known before the server has been asked.
    assert.deepEqual(waits_ms, [2, 4, 8, 8, 2, 4]);
  });

  test('after a cut it goes on at the offset that the server tells, and begins once', async () => {
    server.next('PATCH', { cut_after: 150_000 }).next('PATCH', { cut_after: 150_000 });
    assert.equal(await ended(uploader()), 'finished');
    const offsets = server.requests.filter((r) => r.method === 'PATCH').map((r) => r.headers['upload-offset']);
    assert.deepEqual(offsets, ['0', '150000', '300000']);
    assert.equal(server.count('POST'), 1);
    assert.deepEqual(ticket().bytes, BYTES);
  });

  test('a killed server is waited for as long as it takes', async () => {
    server.next('PATCH', { freeze_after: 100_000 });
    let tries = 0;
    const environment = testEnvironment({
      transport: (request) => {
        tries += 1;
        return nodeTransport(request);
      },
    });
    const upload = uploader(fileOf(BYTES), environment);
    const end = ended(upload);
    await kept(100_000);
    await server.kill();
    tries = 0;
    await until(upload, () => tries > 3);
    assert.match(upload.state_msg, /^reconnecting/);
    await server.start();
    assert.equal(await end, 'finished');
    assert.deepEqual(ticket().bytes, BYTES);
    assert.equal(server.count('POST'), 1);
  });

  test('the reason that the server gives is shown while waiting', async () => {
    server.next('PATCH', { status: 507, problem: { code: 'no_space', detail: 'There is no room.' } });
    const upload = uploader();
    const end = ended(upload);
    await until(upload, (u) => u.state === 'reconnecting');
    assert.equal(upload.state_msg, 'reconnecting (There is no room.)');
    assert.equal(upload.error_code, '');
    await end;
  });

  test('bytes that do not move any more are sent anew over another connection', async () => {
    server.next('PATCH', { freeze_after: 100_000 });
    const environment = testEnvironment({ times: { ...SHORT_TIMES, stall_ms: 90 } });
    assert.equal(await ended(uploader(fileOf(BYTES), environment)), 'finished');
    const offsets = server.requests.filter((r) => r.method === 'PATCH').map((r) => r.headers['upload-offset']);
    assert.deepEqual(offsets, ['0', '100000']);
    assert.deepEqual(ticket().bytes, BYTES);
  });

  test('bytes that have left the browser and that the server goes on to receive are no stall', async () => {
    // Everything is "sent" at once; the bytes trickle out of a buffer far slower than stall_ms for the whole.
    const { promise, resolve } = gate();
    let patches = 0;
    const environment = testEnvironment({
      times: { ...SHORT_TIMES, stall_ms: 60 },
      transport: async (request) => {
        if (request.method !== 'PATCH') {
          return nodeTransport(request);
        }
        patches += 1;
        request.onsent?.(BYTES.length);
        const aborted = new Promise((_, reject) => {
          request.signal.addEventListener('abort', () => reject(new Error('aborted')));
        });
        await Promise.race([promise, aborted]);
        Object.assign(ticket(), { bytes: BYTES, status: 'complete', handover: { state: 'done' } });
        return { status: 204, header: () => String(BYTES.length), text: '' };
      },
    });
    const end = ended(uploader(fileOf(BYTES), environment));
    const begun_ms = performance.now();
    const trickle = setInterval(() => {
      ticket().bytes = BYTES.subarray(0, ticket().bytes.length + 1000);
      if (performance.now() - begun_ms > 300) {
        clearInterval(trickle);
        resolve();
      }
    }, 5);
    assert.equal(await end, 'finished');
    assert.equal(patches, 1);
  });

  test('an answer that got lost on a dead connection is not waited for', async () => {
    const { promise, resolve } = gate();
    server.next('PATCH', { hold_answer: promise });
    const environment = testEnvironment({ times: { ...SHORT_TIMES, stall_ms: 600 } });
    const upload = uploader(fileOf(BYTES), environment);
    /** @type {Set<string>} */
    const states = new Set();
    upload.onprogress = (u) => states.add(u.state);
    assert.equal(await ended(upload), 'finished');
    assert.equal(server.count('PATCH'), 1);
    assert.ok(!states.has('reconnecting'), 'asked, not given up');
    resolve();
  });

  test('comes back at once when the browser says that it is online again', async () => {
    server.next('HEAD', { drop: true });
    const environment = testEnvironment({ times: { ...SHORT_TIMES, backoff_first_ms: 3_600_000, backoff_max_ms: 3_600_000 } });
    const bus = new EventTarget();
    Object.assign(globalThis, {
      addEventListener: bus.addEventListener.bind(bus),
      removeEventListener: bus.removeEventListener.bind(bus),
    });
    try {
      const upload = uploader(fileOf(BYTES), environment);
      const end = ended(upload);
      await until(upload, (u) => u.state === 'reconnecting');
      bus.dispatchEvent(new Event('online'));
      assert.equal(await end, 'finished');
    } finally {
      Reflect.deleteProperty(globalThis, 'addEventListener');
      Reflect.deleteProperty(globalThis, 'removeEventListener');
    }
  });

  test('a question that nobody answers is asked again', async () => {
    const { promise, resolve } = gate();
    server.next('HEAD', { hold: promise });
    const environment = testEnvironment({ times: { ...SHORT_TIMES, answer_timeout_ms: 50 } });
    assert.equal(await ended(uploader(fileOf(BYTES), environment)), 'finished');
    resolve();
  });
});

describe('what is final', () => {
  /** @type {[string, import('./support/server.mjs').Fault][]} */
  const refusals = [
    ['POST', { status: 400, problem: { code: 'length_differs', detail: 'The ticket is for 7 bytes.' } }],
    ['POST', { status: 413, problem: { code: 'too_long', detail: 'The ticket is for 7 bytes.' } }],
    ['PATCH', { status: 403, problem: { code: 'origin_refused', detail: 'Not from here.' } }],
  ];
  for (const [method, fault] of refusals) {
    test(`${fault.status} to ${method} ends it with the code and words of the server`, async () => {
      server.next(method, fault);
      const upload = uploader();
      assert.equal(await ended(upload), 'failed');
      const { code, detail } = /** @type {{ code: string, detail: string }} */ (fault.problem);
      assert.equal(upload.error_code, code);
      assert.equal(upload.error_msg, detail);
      assert.equal(upload.state_msg, `failed (${detail})`);
      assert.equal(upload.can_cancel, false);
      assert.equal(upload.can_pause, false);
    });
  }

  test('an unknown ticket, which HEAD cannot explain, is explained by the status', async () => {
    const upload = incomingAt(server).Uploader('nobody', fileOf(BYTES));
    assert.equal(await ended(upload), 'failed');
    assert.equal(upload.error_code, 'upload_unknown');
    assert.equal(upload.error_msg, 'There is no such upload.');
  });

  test('a refusal without words has a code and words all the same', async () => {
    server.next('HEAD', { status: 400 });
    server.next('GET', { status: 400 });
    const upload = uploader();
    assert.equal(await ended(upload), 'failed');
    assert.equal(upload.error_code, 'http_400');
    assert.equal(upload.error_msg, 'The server answered with status 400.');
  });

  for (const status of ['expired', 'lost']) {
    test(`an upload that is ${status} says so`, async () => {
      Object.assign(ticket(), { status, error: { code: `upload_${status}`, message: 'Too bad.' } });
      const upload = uploader();
      assert.equal(await ended(upload), 'failed');
      assert.equal(upload.error_code, `upload_${status}`);
      assert.equal(upload.error_msg, 'Too bad.');
    });
  }

  test('an upload that ends while bytes are on their way ends here, too', async () => {
    server.next('PATCH', { cut_after: 10_000 });
    const upload = uploader();
    const end = ended(upload);
    await until(upload, (u) => u.state === 'reconnecting');
    ticket().status = 'expired';
    assert.equal(await end, 'failed');
    assert.equal(upload.error_code, 'upload_expired');
  });

  test('the refusal of the web app is shown with its words and data', async () => {
    server.handover_states = ['arrived', 'waiting', 'refused'];
    server.handover_message = 'No programs, please.';
    server.client_data = { hint: 7 };
    const upload = uploader();
    /** @type {string[]} */
    const states = [];
    upload.onprogress = (u) => states.push(u.handover_state);
    assert.equal(await ended(upload), 'failed');
    assert.equal(upload.error_code, 'refused');
    assert.equal(upload.error_msg, 'No programs, please.');
    assert.equal(upload.state_msg, 'refused (No programs, please.)');
    assert.deepEqual(upload.client_data, { hint: 7 });
    assert.ok(states.includes('waiting'));
  });
});

describe('coming back', () => {
  /** Leave the page when some bytes are there. @param {File} file */
  async function leave(file) {
    server.next('PATCH', { cut_after: 200_000 });
    const former = uploader(file);
    former.start();
    await until(former, (u) => u.state === 'reconnecting');
    former.pause('pause');
    return former;
  }

  test('with the same file goes on where the server is', async () => {
    await leave(fileOf(BYTES));
    assert.equal(await ended(uploader(fileOf(BYTES))), 'finished');
    assert.equal(ticket().beginnings, 1);
    assert.deepEqual(ticket().bytes, BYTES);
  });

  /** @type {[string, () => File][]} */
  const others = [
    ['name', () => fileOf(content(BYTES.length, 9), 'other.mp4')],
    ['time', () => fileOf(content(BYTES.length, 9), 'holiday.mp4', 1_700_000_000_001)],
    ['length', () => fileOf(content(BYTES.length + 1, 9))],
  ];
  for (const [what, make] of others) {
    test(`with a file of another ${what} begins anew, and nothing is mixed`, async () => {
      await leave(fileOf(BYTES));
      const file = make();
      assert.equal(await ended(uploader(file)), 'finished');
      assert.equal(ticket().beginnings, 2);
      assert.deepEqual(ticket().bytes, Buffer.from(await file.arrayBuffer()));
    });
  }

  test('to an upload that was begun elsewhere with another file meanwhile ends, and mixes nothing', async () => {
    const former = await leave(fileOf(BYTES));
    await leave(fileOf(content(BYTES.length, 9), 'other.mp4'));
    former.onerror = null;
    const end = new Promise((resolve) => {
      former.onerror = resolve;
    });
    former.pause('unpause');
    await end;
    assert.equal(former.error_code, 'replaced');
    assert.equal(ticket().beginnings, 2);
    assert.deepEqual(ticket().bytes, content(BYTES.length, 9).subarray(0, 200_000));
  });

  test('to a complete upload goes straight to its hand-over', async () => {
    await ended(uploader());
    server.requests.length = 0;
    const upload = uploader();
    assert.equal(await ended(upload), 'finished');
    assert.equal(upload.bytes_acked, BYTES.length);
    assert.deepEqual(server.requests.map((r) => r.method), ['HEAD', 'GET']);
  });

  test('to a complete upload with another file is refused', async () => {
    await ended(uploader());
    const upload = uploader(fileOf(BYTES, 'other.mp4'));
    assert.equal(await ended(upload), 'failed');
    assert.equal(upload.error_code, 'upload_complete');
    assert.equal(ticket().bytes.length, BYTES.length);
  });

  test('to an upload of another file does not take that one for its own, whatever a refusal leaves unsaid', async () => {
    await ended(uploader());
    server.next('POST', { status: 403 });
    const upload = uploader(fileOf(BYTES, 'other.mp4'));
    assert.equal(await ended(upload), 'failed');
    assert.equal(upload.error_code, 'http_403');
  });
});

describe('pause', () => {
  test('ends the request and keeps what was taken; unpause goes on', async () => {
    server.next('PATCH', { freeze_after: 100_000 });
    let open = 0;
    const environment = testEnvironment({
      transport: (request) => {
        open += 1;
        return nodeTransport(request).finally(() => (open -= 1));
      },
    });
    const upload = uploader(fileOf(BYTES), environment);
    const end = ended(upload);
    await kept(100_000);
    assert.equal(open, 1);
    upload.pause('pause');
    while (open > 0) {
      await new Promise(setImmediate);
    }
    assert.equal(upload.paused, true);
    assert.equal(upload.state_msg, 'paused');
    assert.equal(upload.connected, false);
    upload.pause('pause');
    assert.equal(upload.paused, true);
    const asked = server.requests.length;
    upload.pause('toggle');
    assert.equal(upload.paused, false);
    assert.equal(await end, 'finished');
    assert.equal(server.requests[asked]?.method, 'HEAD');
    assert.deepEqual(ticket().bytes, BYTES);
    assert.equal(server.count('POST'), 1);
  });

  test('works while the server is away, and then nothing is asked', async () => {
    await server.kill();
    const upload = uploader();
    const end = ended(upload);
    await until(upload, (u) => u.state === 'reconnecting');
    upload.pause();
    assert.equal(upload.paused, true);
    await server.start();
    upload.pause('unpause');
    assert.equal(await end, 'finished');
  });

  test('does nothing when all bytes are there, and refuses words that it does not know', async () => {
    server.handover_states = ['arrived'];
    const upload = uploader();
    upload.start();
    await until(upload, (u) => u.state === 'watching');
    assert.equal(upload.can_pause, false);
    upload.pause('pause');
    assert.equal(upload.state, 'watching');
    assert.throws(() => upload.pause(/** @type {any} */ ('stop')), TypeError);
    ticket().handover = { state: 'done' };
    server.changed();
    await until(upload, (u) => u.finished);
  });
});

describe('cancel', () => {
  test('while bytes are on their way ends them and cancels on the server', async () => {
    server.next('PATCH', { freeze_after: 1000 });
    const upload = uploader();
    const end = ended(upload);
    await kept(1000);
    upload.cancel('changed my mind');
    assert.equal(upload.cancelling, true);
    assert.equal(upload.can_cancel, false);
    assert.equal(await end, 'cancelled');
    assert.equal(upload.state_msg, 'cancelled (changed my mind)');
    assert.equal(upload.cancel_msg, 'changed my mind');
    assert.equal(ticket().status, 'cancelled');
  });

  test('before the start cancels the ticket', async () => {
    const upload = uploader();
    const end = new Promise((resolve) => {
      upload.oncancelled = resolve;
    });
    upload.cancel();
    await end;
    assert.equal(ticket().status, 'cancelled');
    assert.deepEqual(server.requests.map((r) => r.method), ['DELETE']);
  });

  test('is tried until the server has heard it', async () => {
    server.next('DELETE', { drop: true }).next('DELETE', { status: 503 });
    const upload = uploader();
    upload.pause();
    const end = new Promise((resolve) => {
      upload.oncancelled = resolve;
    });
    upload.cancel();
    await end;
    assert.equal(server.count('DELETE'), 3);
  });

  test('comes too late during the hand-over, which goes on', async () => {
    server.handover_states = ['handing_over'];
    const upload = uploader();
    const end = ended(upload);
    await until(upload, (u) => u.state === 'watching');
    ticket().status = 'handing_over';
    upload.cancel();
    await until(upload, (u) => u.state === 'watching');
    assert.equal(upload.cancel_msg, '');
    ticket().handover = { state: 'done' };
    server.changed();
    assert.equal(await end, 'finished');
  });

  test('in the moment in which the web app takes the file tells the truth', async () => {
    server.handover_states = ['arrived'];
    const upload = uploader();
    const end = ended(upload);
    await until(upload, (u) => u.state === 'watching');
    server.next('DELETE', { status: 204 });
    ticket().handover = { state: 'done' };
    upload.cancel();
    assert.equal(await end, 'finished');
  });

  test('that is not allowed is given back: the upload stays where it was', async () => {
    server.next('DELETE', { status: 403, problem: { code: 'cancel_refused', detail: 'No.' } });
    const upload = uploader();
    upload.cancel();
    await until(upload, (u) => u.state === 'idle');
    assert.equal(upload.can_cancel, false);
    upload.cancel();
    assert.equal(upload.state, 'idle');
    assert.equal(await ended(upload), 'finished');
    assert.equal(server.count('DELETE'), 1);
  });

  test('by the other side is told with its reason', async () => {
    server.next('PATCH', { cut_after: 1000 });
    const upload = uploader();
    const end = ended(upload);
    await until(upload, (u) => u.state === 'reconnecting');
    Object.assign(ticket(), { status: 'cancelled', error: { code: 'cancelled', message: 'Not needed any more.' } });
    assert.equal(await end, 'cancelled');
    assert.equal(upload.cancel_msg, 'Not needed any more.');
  });
});

describe('a file that changes on the disk', () => {
  /** @type {string} */
  let folder;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'incoming-js-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  /** @returns {Promise<[string, File]>} */
  async function onDisk() {
    const path = join(folder, 'f.bin');
    await writeFile(path, BYTES);
    return [path, new File([await openAsBlob(path)], 'f.bin', { lastModified: 1 })];
  }

  test('while the connection is away is found before another byte is sent', async () => {
    const [path, file] = await onDisk();
    server.next('PATCH', { cut_after: 100_000 });
    const upload = uploader(file);
    const end = ended(upload);
    await until(upload, (u) => u.state === 'reconnecting');
    upload.pause('pause');
    await writeFile(path, content(BYTES.length + 5, 3));
    upload.pause('unpause');
    assert.equal(await end, 'failed');
    assert.equal(upload.error_code, 'file_unreadable');
    assert.deepEqual(ticket().bytes, BYTES.subarray(0, 100_000));
  });

  test('while bytes are on their way ends them', async () => {
    const [path, file] = await onDisk();
    server.next('PATCH', { freeze_after: 100_000 });
    const upload = uploader(file);
    const end = ended(upload);
    await kept(100_000);
    await truncate(path, 10);
    assert.equal(await end, 'failed');
    assert.equal(upload.error_code, 'file_unreadable');
    assert.notEqual(ticket().status, 'complete');
  });

  test('is found by looking, not only by sending', async () => {
    const [path, file] = await onDisk();
    const { promise, resolve } = gate();
    const environment = testEnvironment({
      transport: (request) => {
        if (request.method !== 'PATCH') {
          return nodeTransport(request);
        }
        resolve();
        return new Promise((_, reject) => request.signal.addEventListener('abort', () => reject(new Error('aborted'))));
      },
    });
    const upload = uploader(file, environment);
    const end = ended(upload);
    await promise;
    await writeFile(path, content(BYTES.length + 5, 3));
    assert.equal(await end, 'failed');
    assert.equal(upload.error_code, 'file_unreadable');
  });

  test('before it is begun does not cost the bytes of a former beginning', async () => {
    server.next('PATCH', { cut_after: 100_000 });
    const former = uploader();
    former.start();
    await until(former, (u) => u.state === 'reconnecting');
    former.pause('pause');
    const [path, file] = await onDisk();
    await rm(path);
    const upload = uploader(file);
    assert.equal(await ended(upload), 'failed');
    assert.equal(upload.error_code, 'file_unreadable');
    assert.equal(ticket().bytes.length, 100_000);
  });
});

describe('nonsense is refused', () => {
  test('by the constructor, with a sentence', () => {
    const { Uploader } = incomingAt(server);
    const file = fileOf(BYTES);
    for (const [id, what] of /** @type {[any, any][]} */ ([
      ['', file],
      [undefined, file],
      ['two words', file],
      ['//elsewhere.example/x', file],
      ['ftp://elsewhere.example/x', file],
      ['javascript:alert(1)', file],
      ['t', 'text'],
      ['t', null],
    ])) {
      assert.throws(() => Uploader(id, what), { name: 'TypeError', message: /^incoming: / });
    }
  });
});
